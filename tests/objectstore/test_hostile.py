"""Whatever a client sends: an answer, never a 5xx, and never an object outside the registry's root."""

import asyncio
from collections.abc import Iterator

import pytest

from registry_server.config import load
from registry_server.storage import open_storage
from registry_server.storage.objectstore.storage import ObjectStorage
from tests.objectstore.stores import Store
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving
from tests.server.test_hostile import (  # noqa: F401
    assert_faultless,
    hostile,
    test_any_manifest_is_stored_as_it_is_or_refused,
    test_any_request_gets_an_answer,
)


@pytest.fixture(scope="module")
def victim(shared: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    folder = tmp_path_factory.mktemp("victim")
    settings = {"storage": shared.storage("/victims/one", redirect={"disable": True})}
    with serving(folder, settings, environ=shared.environ) as registry, pytest.MonkeyPatch.context() as environ:
        for name, value in shared.environ.items():
            environ.setenv(name, value)
        Repository(registry.client(), "app").push_image("latest", layers=[b"{}"])
        yield registry
        registry.stop()
        assert set(asyncio.run(_keys(registry, shared))) == {"one"}
        assert_faultless(registry)


async def _keys(registry: LiveRegistry, shared: Store) -> list[str]:
    """The folders beside the registry's root."""
    settings = load(registry.config, registry.environ).config.storage
    driver = getattr(settings, shared.kind).model_copy(update={"rootdirectory": "/victims"})
    storage = open_storage(settings.model_copy(update={shared.kind: driver}))
    assert isinstance(storage, ObjectStorage)
    folders, objects = await storage.bucket.folder("")
    return folders + objects
