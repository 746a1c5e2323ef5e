"""skopeo: copies in and out, between registries, of one platform and of all; it verifies the certificate."""

from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER
from tests.fixtures.images import make_oci_index, make_oci_layout
from tests.fixtures.processes import CommandFailed, run
from tests.server.live import LiveRegistry

LOGIN = f"{USER}:{PASSWORD}"


def _remote(registry: LiveRegistry, name: str) -> str:
    return f"docker://{registry.address}/{name}"


def test_an_image_goes_in_and_out_unchanged(skopeo: Path, private: LiveRegistry, ca: Path, tmp_path: Path) -> None:
    pushed = make_oci_layout(tmp_path / "in", [b"hello", 3 << 20])
    remote = _remote(private, "skopeo/app:1")
    copy = [skopeo, "--insecure-policy", "copy"]
    run(*copy, "--dest-creds", LOGIN, "--dest-cert-dir", ca, f"oci:{tmp_path / 'in'}:latest", remote)
    run(*copy, "--src-creds", LOGIN, "--src-cert-dir", ca, remote, f"oci:{tmp_path / 'out'}:latest")
    inspected = run(skopeo, "inspect", "--creds", LOGIN, "--cert-dir", ca, "--format", "{{.Digest}}", remote)
    assert inspected.strip() == pushed.digest
    blobs = {file.name: file.read_bytes() for file in (tmp_path / "in/blobs/sha256").iterdir()}
    assert blobs == {file.name: file.read_bytes() for file in (tmp_path / "out/blobs/sha256").iterdir()}


def test_all_platforms_go_from_one_registry_to_another(
    skopeo: Path, private: LiveRegistry, public: LiveRegistry, ca: Path, tmp_path: Path
) -> None:
    index = make_oci_index(tmp_path / "in", {"linux/amd64": [1024, b"a"], "linux/arm64": [2048, b"b"]})
    here, there = _remote(private, "skopeo/multi:1"), _remote(public, "mirror/multi:1")
    copy = [skopeo, "--insecure-policy", "copy", "--all"]
    run(*copy, "--dest-creds", LOGIN, "--dest-cert-dir", ca, f"oci:{tmp_path / 'in'}:latest", here)
    credentials = ["--src-creds", LOGIN, "--src-cert-dir", ca, "--dest-creds", LOGIN, "--dest-tls-verify=false"]
    run(*copy, *credentials, here, there)
    answer = public.client().head("/v2/mirror/multi/manifests/1")
    assert answer.headers["docker-content-digest"] == index.digest


def test_another_authority_is_not_trusted(skopeo: Path, private: LiveRegistry) -> None:
    with pytest.raises(CommandFailed, match="certificate"):
        run(skopeo, "inspect", "--creds", LOGIN, _remote(private, "skopeo/app:1"))


def test_nobody_gets_in_without_a_login(skopeo: Path, private: LiveRegistry, ca: Path) -> None:
    with pytest.raises(CommandFailed, match=r"authentication required|unauthorized"):
        run(skopeo, "inspect", "--no-creds", "--cert-dir", ca, _remote(private, "skopeo/app:1"))


def test_a_tag_is_deleted(skopeo: Path, private: LiveRegistry, ca: Path, tmp_path: Path) -> None:
    make_oci_layout(tmp_path / "in")
    remote = _remote(private, "skopeo/gone:1")
    login = ["--creds", LOGIN, "--cert-dir", ca]
    source = f"oci:{tmp_path / 'in'}:latest"
    run(skopeo, "--insecure-policy", "copy", "--dest-creds", LOGIN, "--dest-cert-dir", ca, source, remote)
    run(skopeo, "delete", *login, remote)
    with pytest.raises(CommandFailed, match="manifest unknown"):
        run(skopeo, "inspect", *login, remote)
