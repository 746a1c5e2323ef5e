"""The collector under fire: no tag that was acknowledged ever lacks anything, and at the end there is nothing else."""

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from registry_server.config import load
from registry_server.jobs import garbage
from registry_server.jobs.garbage import Collected, Options, collect
from registry_server.jobs.occupancy import lease
from registry_server.metadata.drivers import open_metadata
from registry_server.registry.manifest import understand
from registry_server.storage import open_storage
from tests.server import fire
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.live import LiveRegistry
from tests.server.test_garbage import contents, garbage_collect

pytestmark = pytest.mark.endurance

GRACE: Final = 4
"""Seconds: so short that much is collected while it burns."""
CYCLES: Final = int(os.environ.get("REGATTA_FIRE_CYCLES", "2000"))
REPEATED: Final = CYCLES // 50
"""Contents that are collected at least: fewer, and the fire would show little."""


@pytest.fixture(params=METADATA)
def registry(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> LiveRegistry:
    settings = metadata_settings(request.param, request, tmp_path)
    return serve({"garbagecollection": {"grace": f"{GRACE}s"}, **settings}, workers=2)


def collecting(registry: LiveRegistry, grace: float = GRACE) -> Callable[[], int]:
    """One run of the collector, in this process, beside the server; says how many contents it took."""
    config = load(registry.config, registry.environ).config

    async def run() -> int:
        storage = open_storage(config.storage)
        metadata = open_metadata(config.metadata, storage, understand)
        options = Options(timedelta(seconds=grace), delete_untagged=True)
        try:
            async with lease(storage.aside, "the collector") as held:
                assert not held.exclusive
                events = [event async for event in collect(storage, metadata, options, lease=held)]
        finally:
            await metadata.close()
        return sum(isinstance(event, Collected) and event.fate in ("discarded", "purged") for event in events)

    return lambda: asyncio.run(run())


def test_nothing_acknowledged_is_lost_and_nothing_else_is_left(registry: LiveRegistry) -> None:
    burnt = fire.rage(registry.client, collecting(registry), cycles=CYCLES, patience=GRACE / 2)
    assert burnt.faults == []
    assert burnt.pulls
    assert burnt.collected > REPEATED
    registry.stop()
    assert garbage_collect(registry, "--delete-untagged").exit_code == 0
    assert contents(registry) == burnt.referenced


@pytest.mark.parametrize("driver", ["layout", "sqlite"])
def test_a_server_that_holds_nothing_for_those_who_asked_is_caught(
    driver: str, request: pytest.FixtureRequest, serve: Serve, tmp_path: Path
) -> None:
    """As it takes the grace period for longer than the collector does."""
    grace = {"garbagecollection": {"grace": "1000h"}}
    registry = serve({**grace, **metadata_settings(driver, request, tmp_path)}, workers=2)
    assert fire.rage(registry.client, collecting(registry), cycles=20 * CYCLES, patience=GRACE / 2).faults


@pytest.mark.parametrize("registry", ["layout"], indirect=True)
def test_a_collector_that_grants_no_grace_is_caught(registry: LiveRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: object) -> float:
        return float("inf")

    monkeypatch.setattr(garbage, "_cutoff", at_once)
    burnt = fire.rage(registry.client, collecting(registry), cycles=20 * CYCLES, patience=GRACE / 2)
    assert burnt.faults
