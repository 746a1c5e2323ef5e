"""crane: push, pull, copy, tag, list, delete, over TLS with the registry's CA and a login."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER
from tests.fixtures.images import make_oci_index, make_oci_layout
from tests.fixtures.processes import CommandFailed, run
from tests.server.live import LiveRegistry

Crane = Callable[..., str]


@pytest.fixture
def crane_at(crane: Path, private: LiveRegistry, ca: Path, tmp_path: Path) -> Crane:
    """`crane_at("ls", "team/app")`: crane, logged in, with `{}` standing for the registry's address."""
    environment = {"SSL_CERT_FILE": str(ca / "ca.crt"), "DOCKER_CONFIG": str(tmp_path / "docker")}

    def call(*words: str | Path) -> str:
        return run(crane, *(str(word).replace("{}", private.address) for word in words), env=environment)

    run(crane, "auth", "login", private.address, "-u", USER, "--password-stdin", input=PASSWORD, env=environment)
    return call


def test_an_image_goes_in_and_out_unchanged(crane_at: Crane, tmp_path: Path) -> None:
    pushed = make_oci_layout(tmp_path / "in", [b"hello", 2 << 20])
    crane_at("push", tmp_path / "in", "{}/crane/app:1")
    assert crane_at("digest", "{}/crane/app:1").strip() == pushed.digest
    crane_at("pull", "--format", "oci", "{}/crane/app:1", tmp_path / "out")
    blobs = {file.name for file in (tmp_path / "in/blobs/sha256").iterdir()}
    assert blobs <= {file.name for file in (tmp_path / "out/blobs/sha256").iterdir()}


def test_every_platform_of_an_image_is_copied(crane_at: Crane, tmp_path: Path) -> None:
    index = make_oci_index(tmp_path / "in", {"linux/amd64": [100], "linux/arm64": [200]})
    crane_at("push", tmp_path / "in", "{}/crane/multi:1")
    crane_at("copy", "{}/crane/multi:1", "{}/crane/copied/multi:2")
    assert crane_at("digest", "{}/crane/copied/multi:2").strip() == index.digest
    assert "arm64" in crane_at("config", "--platform", "linux/arm64", "{}/crane/copied/multi:2")


def test_tags_and_repositories_are_listed(crane_at: Crane, tmp_path: Path) -> None:
    make_oci_layout(tmp_path / "in")
    crane_at("push", tmp_path / "in", "{}/crane/listed:1.0")
    crane_at("tag", "{}/crane/listed:1.0", "latest")
    assert crane_at("ls", "{}/crane/listed").split() == ["1.0", "latest"]
    assert "crane/listed" in crane_at("catalog", "{}").split()


def test_a_deleted_image_is_gone_with_its_tags(crane_at: Crane, tmp_path: Path) -> None:
    image = make_oci_layout(tmp_path / "in")
    crane_at("push", tmp_path / "in", "{}/crane/gone:1")
    crane_at("delete", f"{{}}/crane/gone@{image.digest}")
    with pytest.raises(CommandFailed, match="MANIFEST_UNKNOWN"):
        crane_at("manifest", "{}/crane/gone:1")
