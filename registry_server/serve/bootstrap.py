"""Before a registry serves for the first time: it becomes what `bootstrap` says."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from registry_server.health import ServerHealth
from registry_server.jobs.bootstrap import JOB, origin
from registry_server.serve.command import registry_server
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

TRY_AGAIN: Final = 5.0
"""Seconds after a failure: of the source, of our own storage, or as another server is at it."""
LOOK_EVERY: Final = 0.5
"""Seconds between looks of those who wait for another process."""


async def bootstrapped(aside: Aside, config_file: Path, health: ServerHealth, *, leads: bool) -> None:
    """Return once all is there; until then `/readyz` says what is waited for. One process of a server `leads`."""
    health.waiting = "what bootstrap.source has kept is being brought back; the log tells how far it is"
    while not await _is_complete(aside):
        if not leads:
            await asyncio.sleep(LOOK_EVERY)
        elif not await registry_server(JOB, ["bootstrap"], config_file):
            health.waiting = "what bootstrap.source has kept could not be brought back yet; the log tells why"
            await asyncio.sleep(TRY_AGAIN)


async def _is_complete(aside: Aside) -> bool:
    try:
        found = await origin(aside)
    except StorageError as error:
        logger.warning("could not find out whether the registry is what it shall begin with: %s", error)
        return False
    return found is not None and found.complete
