"""A real Docker engine: log in, push, pull, run; refused without a login; a public registry without one."""

from collections.abc import Iterator

import pytest

from tests.clients.conftest import PASSWORD, USER
from tests.fixtures.docker import Dockerd
from tests.fixtures.processes import CommandFailed
from tests.server.live import LiveRegistry

REFUSED = r"no basic auth credentials|malformed HTTP response"
"""What Docker says to someone whom a registry on loopback refuses: after HTTPS it has tried plain HTTP, too."""


@pytest.fixture
def image(dockerd: Dockerd) -> Iterator[str]:
    """An image that can run, known to the engine alone."""
    dockerd.import_busybox_image("clients/box:1")
    yield "clients/box:1"
    dockerd.docker("rmi", "--force", "clients/box:1")


@pytest.fixture
def login(dockerd: Dockerd) -> Iterator[object]:
    """`login(registry)` logs the engine's client in, for this test."""
    addresses: list[str] = []

    def log_in(registry: LiveRegistry, password: str = PASSWORD) -> str:
        addresses.append(registry.address)
        return dockerd.docker("login", registry.address, "--username", USER, "--password-stdin", input=password)

    yield log_in
    for address in addresses:
        dockerd.docker("logout", address)


def _push(dockerd: Dockerd, image: str, registry: LiveRegistry, name: str) -> str:
    remote = f"{registry.address}/{name}"
    dockerd.docker("tag", image, remote)
    try:
        dockerd.docker("push", remote)
    finally:
        dockerd.docker("rmi", remote)
    return remote


class TestPrivate:
    def test_an_image_comes_back_as_it_was_pushed_and_runs(self, dockerd, image, login, private):
        assert "Login Succeeded" in login(private)
        pushed = dockerd.docker("image", "inspect", "--format", "{{.Id}}", image)
        remote = _push(dockerd, image, private, "team/box:1")
        dockerd.docker("rmi", image)
        dockerd.docker("pull", remote)
        assert dockerd.docker("image", "inspect", "--format", "{{.Id}}", remote) == pushed
        assert dockerd.docker("run", "--rm", "--network", "none", remote, "echo", "it runs") == "it runs\n"
        dockerd.docker("rmi", remote)

    def test_a_pull_by_digest(self, dockerd, image, login, private):
        login(private)
        remote = _push(dockerd, image, private, "team/by-digest:1")
        digest = private.client(USER, PASSWORD).head("/v2/team/by-digest/manifests/1").headers["docker-content-digest"]
        by_digest = f"{remote.rpartition(':')[0]}@{digest}"
        assert digest in dockerd.docker("pull", by_digest)
        dockerd.docker("rmi", by_digest)

    def test_a_wrong_password_is_refused(self, login, private):
        with pytest.raises(CommandFailed, match="401 Unauthorized"):
            login(private, "wrong")

    def test_nobody_pulls_or_pushes_without_a_login(self, dockerd, image, login, private):
        login(private)
        remote = _push(dockerd, image, private, "team/secret:1")
        dockerd.docker("logout", private.address)
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("pull", remote)
        with pytest.raises(CommandFailed, match=REFUSED):
            _push(dockerd, image, private, "team/intruder:1")
        assert private.client(USER, PASSWORD).get("/v2/team/intruder/tags/list").status_code == 404


class TestPublic:
    def test_anyone_pulls_what_ci_pushed(self, dockerd, image, login, public):
        login(public)
        remote = _push(dockerd, image, public, "open/box:1")
        dockerd.docker("logout", public.address)
        dockerd.docker("pull", remote)
        dockerd.docker("rmi", remote)

    def test_nobody_pushes_without_a_login(self, dockerd, image, public):
        with pytest.raises(CommandFailed, match=r"unauthorized|denied"):
            _push(dockerd, image, public, "open/intruder:1")
