"""Servers to test against: one that tests share, and one of a test's own when it needs another or harms it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving

# A request to another process takes as long as the machine's other work lets it.
settings.register_profile("live", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("live")

Serve = Callable[..., LiveRegistry]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Two workers, no logins, plain HTTP: whatever is not about these is tested here."""
    with serving(tmp_path_factory.mktemp("registry"), workers=2) as running:
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
    with ExitStack() as running:
        folders = (tmp_path / f"registry-{number}" for number in itertools.count())
        yield lambda *args, **kwargs: running.enter_context(serving(next(folders), *args, **kwargs))
