"""skopeo: copies in, out and across, verified by its own digests."""

import json
import shutil
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, ca_of
from tests.fixtures.images import make_oci_index, make_oci_layout
from tests.fixtures.processes import CommandFailed, run
from tests.server.live import LiveRegistry

REFUSED = "unauthorized|authentication required|denied|invalid username"
LOGIN = f"{USER}:{PASSWORD}"


class Skopeo:
    """The command with an authority it trusts and a policy that is the tests' own."""

    def __init__(self, program: Path, registry: LiveRegistry, folder: Path) -> None:
        self._program = program
        self._certificates = folder / "certificates"
        self._certificates.mkdir()
        shutil.copy(ca_of(registry), self._certificates / "ca.crt")
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._auth = folder / "auth.json"
        self.at = f"docker://{registry.address}"

    def copy(self, source: str, target: str, *args: str, login: str | None = LOGIN) -> None:
        sides = [side for side, place in (("src", source), ("dest", target)) if place.startswith("docker:")]
        options = [f"--{side}-cert-dir={self._certificates}" for side in sides]
        options += [f"--{side}-creds={login}" for side in sides if login]
        run(
            self._program,
            f"--policy={self._policy}",
            "copy",
            f"--authfile={self._auth}",
            *options,
            *args,
            source,
            target,
        )

    def ask(self, command: str, *args: str, login: str | None = LOGIN) -> str:
        options = [f"--cert-dir={self._certificates}", f"--authfile={self._auth}"]
        options += [f"--creds={login}"] if login else []
        return run(self._program, command, *options, *args)


@pytest.fixture
def at_private(skopeo: Path, private: LiveRegistry, tmp_path: Path) -> Skopeo:
    return Skopeo(skopeo, private, tmp_path)


@pytest.fixture
def at_public(skopeo: Path, public: LiveRegistry, tmp_path: Path) -> Skopeo:
    return Skopeo(skopeo, public, tmp_path)


def test_an_image_comes_back_as_it_went(at_private: Skopeo, tmp_path: Path) -> None:
    manifest = make_oci_layout(tmp_path / "in", [b"one", 5 << 20, 100])
    at_private.copy(f"oci:{tmp_path / 'in'}:latest", f"{at_private.at}/skopeo/image:1")
    at_private.copy(f"{at_private.at}/skopeo/image:1", f"oci:{tmp_path / 'out'}:latest")
    assert _digest(tmp_path / "out") == manifest.digest
    assert _blobs(tmp_path / "out") == _blobs(tmp_path / "in")


def test_a_multi_platform_image_comes_back_whole(at_private: Skopeo, tmp_path: Path) -> None:
    index = make_oci_index(tmp_path / "in", {"linux/amd64": [1000], "linux/arm64/v8": [2000], "linux/s390x": [3000]})
    image = f"{at_private.at}/skopeo/index"
    at_private.copy(f"oci:{tmp_path / 'in'}:latest", f"{image}:1", "--all")
    at_private.copy(f"{image}:1", f"{at_private.at}/skopeo/copied:1", "--all")
    at_private.copy(f"{at_private.at}/skopeo/copied@{index.digest}", f"oci:{tmp_path / 'out'}:latest", "--all")
    assert _blobs(tmp_path / "out") == _blobs(tmp_path / "in")
    raw = json.loads(at_private.ask("inspect", "--raw", f"{image}:1"))
    assert [entry["platform"]["architecture"] for entry in raw["manifests"]] == ["amd64", "arm64", "s390x"]


@pytest.mark.parametrize("form", ["v2s2", "oci"])
def test_both_manifest_formats_are_taken(at_private: Skopeo, tmp_path: Path, form: str) -> None:
    make_oci_layout(tmp_path / "in", [b"one"])
    image = f"{at_private.at}/skopeo/{form}:1"
    at_private.copy(f"oci:{tmp_path / 'in'}:latest", image, f"--format={form}")
    media_type = json.loads(at_private.ask("inspect", "--raw", image))["mediaType"]
    assert ("docker" if form == "v2s2" else "oci") in media_type


def test_tags_are_listed_and_images_deleted(at_private: Skopeo, tmp_path: Path) -> None:
    make_oci_layout(tmp_path / "in", [b"to be deleted"])
    repository = f"{at_private.at}/skopeo/deleted"
    for tag in ("b", "a"):
        at_private.copy(f"oci:{tmp_path / 'in'}:latest", f"{repository}:{tag}")
    assert json.loads(at_private.ask("list-tags", repository))["Tags"] == ["a", "b"]
    at_private.ask("delete", f"{repository}:a")
    assert json.loads(at_private.ask("list-tags", repository))["Tags"] == []


def test_nothing_goes_without_a_login(at_private: Skopeo, tmp_path: Path) -> None:
    make_oci_layout(tmp_path / "in", [b"one"])
    source, target = f"oci:{tmp_path / 'in'}:latest", f"{at_private.at}/skopeo/refused:1"
    for login in (None, f"{USER}:wrong", f"nobody:{PASSWORD}"):
        with pytest.raises(CommandFailed, match=REFUSED):
            at_private.copy(source, target, login=login)
        with pytest.raises(CommandFailed, match=REFUSED):
            at_private.ask("inspect", target, login=login)


def test_an_authority_that_is_not_trusted_is_refused(skopeo: Path, private: LiveRegistry) -> None:
    with pytest.raises(CommandFailed, match="unknown authority"):
        run(skopeo, "list-tags", f"--creds={LOGIN}", f"docker://{private.address}/skopeo/image")


def test_a_public_image_goes_out_without_a_login_and_in_with_one(at_public: Skopeo, tmp_path: Path) -> None:
    manifest = make_oci_layout(tmp_path / "in", [b"one", 1 << 20])
    source, image = f"oci:{tmp_path / 'in'}:latest", f"{at_public.at}/public/app:1"
    with pytest.raises(CommandFailed, match=REFUSED):
        at_public.copy(source, image, login=None)
    at_public.copy(source, image)
    at_public.copy(image, f"oci:{tmp_path / 'out'}:latest", login=None)
    assert _digest(tmp_path / "out") == manifest.digest
    hidden = f"{at_public.at}/hidden/app:1"
    at_public.copy(source, hidden)
    with pytest.raises(CommandFailed, match=REFUSED):
        at_public.copy(hidden, f"oci:{tmp_path / 'none'}:latest", login=None)


def _digest(layout: Path) -> str:
    digest: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return digest


def _blobs(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}
