"""Servers to test against: one that tests share, and one of a test's own when it needs another or harms it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving, several

# A request to another process takes as long as the machine's other work lets it.
settings.register_profile("live", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("live")

Serve = Callable[..., LiveRegistry]

_numbers = itertools.count()


METADATA = ("layout", "sqlite", "postgresql", "mariadb")
_ON_EVERY_METADATA_DRIVER = ("test_blobs", "test_manifests", "test_referrers", "test_uploads")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs the tests of the protocol that share a registry on each metadata driver."""
    if "registry" in metafunc.fixturenames and metafunc.module.__name__.endswith(_ON_EVERY_METADATA_DRIVER):
        metafunc.parametrize("registry", METADATA, indirect=True, scope="session")


def metadata_settings(driver: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """The block of the configuration that names a metadata driver, with a database that is new."""
    if driver == "layout":
        return {}
    url = f"sqlite:///{folder / 'metadata.db'}" if driver == "sqlite" else request.getfixturevalue(driver).database()
    return {"metadata": {"sql": {"url": url}}}


@pytest.fixture(scope="session")
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Two workers, no logins, plain HTTP: whatever is not about these is tested here."""
    folder = tmp_path_factory.mktemp("registry")
    settings = metadata_settings(getattr(request, "param", "layout"), request, folder)
    with serving(folder, settings, workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def client(registry: LiveRegistry) -> httpx.Client:
    return registry.client()


@pytest.fixture
def repository(client: httpx.Client) -> Repository:
    """A repository of the shared registry that no other test uses."""
    return Repository(client, f"test-{next(_numbers)}/app")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(settings, users=…, tls=…, workers=…)` starts a registry of the test's own; see `serving`."""
    with several(tmp_path) as start:
        yield start


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The folder that backups go to."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder
