"""Collects garbage when it is due: in a process of its own, so that no request waits for it.

When that is follows from when the last collection ended, which is kept in the storage: a restart begins no interval
anew, and of several servers one is first.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from registry_server.config import GarbageCollection
from registry_server.jobs import runs
from registry_server.jobs.garbage import JOB
from registry_server.jobs.occupancy import storage_time
from registry_server.metrics import (
    COLLECTED_BYTES,
    COLLECTION_ENDED,
    COLLECTION_SECONDS,
    COLLECTION_SUCCESS,
    Measured,
)
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(minutes=1)
"""How often to look whether it is due; a hundredth of the interval where that is less."""
LOWER_PRIORITY: Final = 10
"""How much the process yields to those that answer requests (nice(2))."""


class Collections:
    """The collections of one server."""

    def __init__(self, aside: Aside, config_file: Path, settings: GarbageCollection) -> None:
        self._aside = aside
        self._config_file = config_file
        self._settings = settings

    async def run(self, *, paused: Callable[[], bool], measured: Callable[[Measured], None]) -> NoReturn:
        """Collect when it is due, unless `paused`, for ever; `measured` is told of the last run."""
        while True:
            try:
                if self._settings.interval and not paused() and await self._is_due():
                    await self._collect()
                measured(await self._measure())
            except StorageError as error:
                logger.warning("could not find out when garbage was collected last: %s", error)
            await asyncio.sleep(min(LOOK_EVERY, self._settings.interval / 100 or LOOK_EVERY).total_seconds())

    async def _is_due(self) -> bool:
        last = await runs.last(self._aside, JOB)
        if last is None:
            await runs.begin(self._aside, JOB)
            return False
        return await storage_time(self._aside) - last[0] >= self._settings.interval.total_seconds()

    async def _collect(self) -> None:
        untagged = ["--delete-untagged"] if self._settings.deleteuntagged else []
        command = [sys.executable, "-m", "registry_server", "garbage-collect", "--quiet", *untagged]
        process = await asyncio.create_subprocess_exec(
            *command,
            self._config_file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, LOWER_PRIORITY)
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
        level = logging.WARNING if process.returncode else logging.INFO
        for line in said.decode(errors="replace").splitlines():
            logger.log(level, "garbage collection: %s", line)

    async def _measure(self) -> Measured:
        ended, run = await runs.last(self._aside, JOB) or (0.0, None)
        if run is None:
            return {}
        return {
            COLLECTION_ENDED: {(): ended},
            COLLECTION_SECONDS: {(): run.seconds},
            COLLECTION_SUCCESS: {(): 0 if run.error else 1},
            COLLECTED_BYTES: {(fate,): run.sums.get(fate, runs.Sum()).bytes for fate in ("discarded", "purged")},
        }
