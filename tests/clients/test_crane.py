"""crane: what a pipeline does with images, and a check of every digest on the way."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, Client
from tests.fixtures.images import make_docker_archive, make_oci_index, make_oci_layout
from tests.fixtures.processes import CommandFailed
from tests.server.live import LiveRegistry, serving

REFUSED = "401|UNAUTHORIZED"


class Crane(Client):
    def login(self, password: str = PASSWORD) -> None:
        self("auth", "login", "--username", USER, "--password-stdin", self.at, input=password)


@pytest.fixture
def at_private(crane: Path, private: LiveRegistry, tmp_path: Path) -> Crane:
    client = Crane(crane, private, tmp_path)
    client.login()
    return client


@pytest.fixture
def at_public(crane: Path, public: LiveRegistry, tmp_path: Path) -> Crane:
    return Crane(crane, public, tmp_path)


def test_an_image_is_pushed_copied_tagged_listed_and_deleted(at_private: Crane, tmp_path: Path) -> None:
    layout = make_oci_layout(tmp_path / "layout", [b"one", 3 << 20])
    image, copy = f"{at_private.at}/crane/image", f"{at_private.at}/crane/copy"
    at_private("push", tmp_path / "layout", f"{image}:1")
    assert at_private("digest", f"{image}:1").strip() == layout.digest
    at_private("validate", "--remote", f"{image}:1")
    at_private("tag", f"{image}:1", "stable")
    assert at_private("ls", image).split() == ["1", "stable"]
    at_private("copy", f"{image}:stable", f"{copy}:2")
    at_private("validate", "--remote", f"{copy}:2")
    assert {"crane/copy", "crane/image"} <= set(at_private("catalog", at_private.at).split())
    at_private("delete", f"{image}:stable")
    assert at_private("ls", image).split() == ["1"]
    at_private("delete", f"{image}@{layout.digest}")
    assert at_private("ls", image).split() == []
    assert at_private("digest", f"{copy}:2").strip() == layout.digest


def test_a_multi_platform_image_is_whole(at_private: Crane, tmp_path: Path) -> None:
    index = make_oci_index(tmp_path / "index", {"linux/amd64": [1000], "linux/arm64/v8": [2000]})
    image = f"{at_private.at}/crane/index:1"
    at_private("push", tmp_path / "index", image)
    assert at_private("digest", image).strip() == index.digest
    at_private("validate", "--remote", image)
    arm = json.loads(at_private("config", "--platform=linux/arm64/v8", image))
    assert arm["architecture"] == "arm64"
    at_private("pull", "--format=oci", image, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "index.json").read_text())["manifests"][0]["digest"] == index.digest


def test_an_archive_of_docker_is_pushed_and_pulled(at_private: Crane, tmp_path: Path) -> None:
    archive = make_docker_archive(tmp_path / "in.tar", [b"one", 1 << 20])
    image = f"{at_private.at}/crane/archive:1"
    at_private("push", archive, image)
    at_private("pull", image, tmp_path / "out.tar")
    at_private("validate", "--remote", image, "--tarball", tmp_path / "out.tar")


def test_a_wrong_login_is_refused(crane: Path, private: LiveRegistry, tmp_path: Path) -> None:
    client = Crane(crane, private, tmp_path)
    client.login("wrong")  # is only remembered
    for command in (("catalog", client.at), ("digest", f"{client.at}/crane/image:1")):
        with pytest.raises(CommandFailed, match=REFUSED):
            client(*command)


def test_a_public_image_is_for_everyone_to_pull_and_for_some_to_push(at_public: Crane, tmp_path: Path) -> None:
    make_oci_layout(tmp_path / "layout", [b"one", 1 << 20])
    image = f"{at_public.at}/public/app:1"
    with pytest.raises(CommandFailed, match=REFUSED):
        at_public("push", tmp_path / "layout", image)
    at_public.login()
    at_public("push", tmp_path / "layout", image)
    at_public("auth", "logout", at_public.at)
    at_public("validate", "--remote", image)
    assert at_public("ls", f"{at_public.at}/public/app").split() == ["1"]
    assert "hidden" not in at_public("catalog", at_public.at)


def test_a_push_beyond_a_quota_is_told_why(crane: Path, tmp_path: Path) -> None:
    """And what fitted goes on being served."""
    settings = {"quotas": [{"repositories": ["team/*"], "bytes": "1MiB"}]}
    with serving(tmp_path / "registry", settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        client = Crane(crane, registry, tmp_path)
        client.login()
        for name, size in (("small", 500_000), ("large", 900_000)):
            make_oci_layout(tmp_path / name, [size])
        client("push", tmp_path / "small", f"{client.at}/team/app:1")
        with pytest.raises(CommandFailed, match="DENIED: the quota would be exceeded: the repository holds"):
            client("push", tmp_path / "large", f"{client.at}/team/app:2")
        assert client("ls", f"{client.at}/team/app").split() == ["1"]
        client("validate", "--remote", f"{client.at}/team/app:1")
        client("push", tmp_path / "large", f"{client.at}/other/app:2")
