"""Garbage collection where contents are objects: alone, and beside a server under fire."""

import asyncio
from typing import Final

import pytest

from registry_server.config import load
from registry_server.storage import open_storage
from tests.objectstore.conftest import Serve
from tests.server import fire
from tests.server.content import Repository, digest_of, unique
from tests.server.live import LiveRegistry
from tests.server.test_garbage import all_of, garbage_collect
from tests.server.test_garbage_fire import CYCLES, REPEATED, collecting

pytestmark = pytest.mark.usefixtures("where_the_store_is")

GRACE: Final = 8
"""Seconds; the clocks of stores tick once a second."""


def contents(registry: LiveRegistry) -> set[str]:
    """The digests of all contents in their places."""

    async def ask() -> set[str]:
        storage = open_storage(load(registry.config, registry.environ).config.storage)
        return {str(blob.digest) async for blobs in storage.contents() for blob in blobs}

    return asyncio.run(ask())


def test_exactly_what_is_referred_to_stays(serve: Serve) -> None:
    registry = serve()
    app = Repository(registry.client(), "app")
    layer, orphan = unique(), unique()
    kept = app.push_image("kept", layers=[layer])
    deleted = app.push_image("deleted")
    app.push_blob(orphan)
    app.client.delete(f"{app.path}/manifests/{digest_of(deleted)}")
    registry.stop()
    assert garbage_collect(registry).exit_code == 0
    assert contents(registry) == all_of(b"{}", layer, kept)
    app = Repository(registry.start().client(), "app")
    assert app.get_manifest("kept").content == kept
    assert app.get_blob(digest_of(layer)).content == layer
    assert app.get_blob(digest_of(orphan)).status_code == 404


def test_under_fire_nothing_acknowledged_is_lost_and_nothing_else_is_left(serve: Serve) -> None:
    registry = serve({"garbagecollection": {"grace": f"{GRACE}s"}}, workers=2)
    burnt = fire.rage(registry.client, collecting(registry, GRACE), cycles=CYCLES, patience=GRACE / 2)
    assert burnt.faults == []
    assert burnt.pulls
    assert burnt.collected > REPEATED / 2
    registry.stop()
    assert garbage_collect(registry, "--delete-untagged").exit_code == 0
    assert contents(registry) == burnt.referenced
