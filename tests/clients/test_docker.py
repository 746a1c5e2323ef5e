"""The Docker engine: log in, push, pull and run."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, PUBLIC, USER, ca_of
from tests.fixtures.docker import VERIFIED_ADDRESS, VERIFIED_HOST, Dockerd
from tests.fixtures.images import make_docker_archive
from tests.fixtures.processes import CommandFailed
from tests.server.live import LiveRegistry, serving

WRONG = "401 Unauthorized|unauthorized: "
REFUSED = "unauthorized|authorization failed|denied|no basic auth credentials|authentication required"


@pytest.fixture
def private(tmp_path: Path) -> Iterator[LiveRegistry]:
    with serving(tmp_path / "registry", users={USER: PASSWORD}, tls=True, workers=2, host=VERIFIED_ADDRESS) as registry:
        yield registry


@pytest.fixture
def public(tmp_path: Path) -> Iterator[LiveRegistry]:
    settings = {"access": {"policies": PUBLIC}}
    folder = tmp_path / "registry"
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2, host=VERIFIED_ADDRESS) as registry:
        yield registry


def test_a_private_registry_takes_and_gives_after_a_login_only(dockerd: Dockerd, private: LiveRegistry) -> None:
    image = f"{_name(private)}/team/busybox:1"
    dockerd.import_busybox_image(image)
    with dockerd.trust(_name(private), ca_of(private)):
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("push", image)
        with pytest.raises(CommandFailed, match=WRONG):
            _login(dockerd, private, "wrong")
        assert "Login Succeeded" in _login(dockerd, private, PASSWORD)
        dockerd.docker("push", image)
        dockerd.docker("rmi", image)
        dockerd.docker("logout", _name(private))
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("pull", image)
        _login(dockerd, private, PASSWORD)
        dockerd.docker("pull", image)
        assert dockerd.docker("run", "--rm", "--network", "none", image, "echo", "ahoy") == "ahoy\n"
        dockerd.docker("logout", _name(private))


def test_a_public_registry_gives_to_everyone_and_takes_after_a_login(
    dockerd: Dockerd, public: LiveRegistry, tmp_path: Path
) -> None:
    image = f"{_name(public)}/public/app:1"
    archive = make_docker_archive(tmp_path / "image.tar", [b"one", 5 << 20, 3 << 20], name=image)
    dockerd.docker("load", "-i", str(archive))
    with dockerd.trust(_name(public), ca_of(public)):
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("push", image)
        _login(dockerd, public, PASSWORD)
        dockerd.docker("push", image)
        dockerd.docker("logout", _name(public))
        dockerd.docker("rmi", image)
        dockerd.docker("pull", image)
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("pull", f"{_name(public)}/private/app:1")


def test_a_login_stays_without_its_password_until_that_changes(dockerd: Dockerd, public: LiveRegistry) -> None:
    """The engine keeps a refresh token instead."""
    image = f"{_name(public)}/private/refreshed:1"
    dockerd.import_busybox_image(image)
    with dockerd.trust(_name(public), ca_of(public)):
        _login(dockerd, public, PASSWORD)
        login = json.loads((dockerd.config / "config.json").read_text())["auths"][_name(public)]
        assert login["identitytoken"]
        assert PASSWORD not in base64.b64decode(login["auth"]).decode()
        dockerd.docker("push", image)
        public.change_users({USER: "another"})
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("pull", image)
        dockerd.docker("logout", _name(public))


def test_layers_of_one_repository_are_mounted_into_another(dockerd: Dockerd, public: LiveRegistry) -> None:
    first, second = f"{_name(public)}/public/busybox:1", f"{_name(public)}/other/busybox:1"
    dockerd.import_busybox_image(first)
    dockerd.docker("tag", first, second)
    with dockerd.trust(_name(public), ca_of(public)):
        _login(dockerd, public, PASSWORD)
        dockerd.docker("push", first)
        assert "Mounted from public/busybox" in dockerd.docker("push", second)
        dockerd.docker("logout", _name(public))


def _name(registry: LiveRegistry) -> str:
    """Where the engine finds the registry, and verifies its certificate."""
    return f"{VERIFIED_HOST}:{registry.port}"


def _login(dockerd: Dockerd, registry: LiveRegistry, password: str) -> str:
    return dockerd.docker("login", "--username", USER, "--password-stdin", _name(registry), input=password)
