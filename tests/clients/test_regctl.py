"""regctl: copies with referrers, blobs in chunks, and deletes of tags alone."""

from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, Client
from tests.fixtures.images import make_oci_index, make_oci_layout
from tests.fixtures.processes import CommandFailed
from tests.fixtures.tools import Need
from tests.server.live import LiveRegistry

REFUSED = "(?i)unauthorized|denied"
SBOM = "application/vnd.example.sbom"


@pytest.fixture
def regctl(need: Need, private: LiveRegistry, tmp_path: Path) -> Client:
    return Client(need("regctl"), private, tmp_path)


@pytest.fixture
def logged_in(regctl: Client) -> Client:
    regctl("registry", "login", regctl.at, "--user", USER, "--pass-stdin", input=PASSWORD)
    return regctl


def test_a_login_is_needed(regctl: Client) -> None:
    with pytest.raises(CommandFailed, match=REFUSED):
        regctl("repo", "ls", regctl.at)


def test_an_image_in_chunks_goes_in_and_out(logged_in: Client, tmp_path: Path) -> None:
    layout = make_oci_layout(tmp_path / "layout", [b"one", 5 << 20])
    image = f"{logged_in.at}/regctl/image:1"
    logged_in("registry", "set", logged_in.at, "--blob-chunk=1000000", "--blob-max=2000000")
    logged_in("image", "copy", f"ocidir://{tmp_path}/layout@{layout.digest}", image)
    assert logged_in("image", "digest", image).strip() == layout.digest
    logged_in("image", "copy", image, f"ocidir://{tmp_path}/back:1")
    assert logged_in("image", "digest", f"ocidir://{tmp_path}/back:1").strip() == layout.digest


def test_a_copy_takes_along_what_refers_to_it(logged_in: Client, tmp_path: Path) -> None:
    index = make_oci_index(tmp_path / "index", {"linux/amd64": [1000], "linux/arm64": [2000]})
    image, copy = f"{logged_in.at}/regctl/index:1", f"{logged_in.at}/regctl/copy:1"
    logged_in("image", "copy", f"ocidir://{tmp_path}/index@{index.digest}", image)
    logged_in("artifact", "put", f"--artifact-type={SBOM}", f"--subject={image}", input="{}")
    logged_in("image", "copy", "--referrers", image, copy)
    assert SBOM in logged_in("artifact", "list", copy)
    assert logged_in("image", "digest", copy).strip() == index.digest


def test_a_tag_is_deleted_alone(logged_in: Client, tmp_path: Path) -> None:
    layout = make_oci_layout(tmp_path / "layout", [b"one"])
    repository = f"{logged_in.at}/regctl/tags"
    for tag in ("1", "2"):
        logged_in("image", "copy", f"ocidir://{tmp_path}/layout@{layout.digest}", f"{repository}:{tag}")
    logged_in("tag", "delete", f"{repository}:1")
    assert logged_in("tag", "ls", repository).split() == ["2"]
    assert logged_in("image", "digest", f"{repository}:2").strip() == layout.digest
