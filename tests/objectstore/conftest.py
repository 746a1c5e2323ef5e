"""Each store, and a registry with two workers on it that tests share, as `tests/server` has one on a file system."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.conftest import PASSWORD, PUBLIC, USER
from tests.fixtures.tools import Need
from tests.objectstore.stores import Store, store
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving

Serve = Callable[..., LiveRegistry]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def stores(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """`stores("s3")` is the server of that kind which tests share; started when it is first asked for."""
    running: dict[str, Store] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Store:
            if kind not in running:
                running[kind] = stack.enter_context(store(kind, need, tmp_path_factory.mktemp(kind)))
            return running[kind]

        yield get


@pytest.fixture(scope="session", params=["s3", "gcs", "azure"])
def shared(request: pytest.FixtureRequest, stores: Callable[[str], Store]) -> Store:
    """A store of each kind."""
    return stores(request.param)


@pytest.fixture
def where_the_store_is(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process find the store as its registries do."""
    for name, value in shared.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def registry(shared: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Two workers, no logins, plain HTTP, content through the server."""
    folder = tmp_path_factory.mktemp("registry")
    storage = shared.storage("/shared", redirect={"disable": True})
    with serving(folder, {"storage": storage}, workers=2, environ=shared.environ) as running:
        # Only this S3 server keeps objects as files; for the others the driver is asked, in test_storage.
        running.root = shared.files("shared") if shared.kind == "s3" else folder / "no files"
        yield running


@pytest.fixture(scope="session")
def client(registry: LiveRegistry) -> httpx.Client:
    return registry.client()


@pytest.fixture
def repository(client: httpx.Client) -> Repository:
    """A repository of the shared registry that no other test uses."""
    return Repository(client, f"test-{next(_numbers)}/app")


@pytest.fixture
def serve(shared: Store, tmp_path: Path) -> Iterator[Serve]:
    """`serve(settings, …)` starts a registry of the test's own, its content below a root of its own; see `serving`."""
    with ExitStack() as running:
        numbers = itertools.count()

        def start(settings: dict[str, Any] | None = None, **more: Any) -> LiveRegistry:
            number = next(numbers)
            storage = shared.storage(f"/{tmp_path.name}-{number}", redirect={"disable": True})
            merged = {**(settings or {}), "storage": storage | (settings or {}).get("storage", {})}
            folder = tmp_path / f"registry-{number}"
            return running.enter_context(serving(folder, merged, environ=shared.environ, **more))

        yield start


@pytest.fixture(scope="module", params=["s3", "azure"])
def signing(request: pytest.FixtureRequest, stores: Callable[[str], Store]) -> Store:
    """A store that signs addresses: clients get content from there."""
    return stores(request.param)


@pytest.fixture(scope="module")
def private(signing: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Nothing without a login, for clients of `tests/clients`."""
    settings = {"storage": signing.storage("/private")}
    folder = tmp_path_factory.mktemp("private")
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


@pytest.fixture(scope="module")
def public(signing: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Everyone pulls what is below `public/`."""
    settings = {"storage": signing.storage("/public"), "access": {"policies": PUBLIC}}
    folder = tmp_path_factory.mktemp("public")
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry
