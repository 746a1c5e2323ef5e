"""Writing events down: each worker's way into the journal, in batches, off the event loop.

While one batch is being synced the next gathers, so a thousand pushes at once wait for a few syncs and not for a
thousand.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from registry_server.config import EventAction, Notifications
from registry_server.metrics import Metrics
from registry_server.notifications.journal import Journal

logger = logging.getLogger(__name__)

FLUSH_EVERY: Final = 0.1
"""Seconds that a pull waits for others at most, and what `kill -9` may take of them."""
MAX_BATCH: Final = 256
"""Events written at once."""
MAX_WAITING: Final = 10_000
"""Pulls kept in memory; where the disk is slower than that, further ones are dropped."""


class Recorder:
    """The journal as a worker writes to it."""

    def __init__(self, journal: Journal, settings: Notifications, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._endpoints = settings.enabled
        self._waiting: list[tuple[bytes, asyncio.Future[None] | None]] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False

    def wants(self, action: EventAction, media_type: str) -> bool:
        """Whether some endpoint is to get such an event."""
        return any(endpoint.wants(action, media_type) for endpoint in self._endpoints)

    async def record(self, *events: bytes) -> None:
        """Write events down; when this returns, they outlive the process.

        What can't be written is dropped, logged and counted: the change itself has happened and can't be undone.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting += [(event, None) for event in events[:-1]]
        self._waiting.append((events[-1], written))
        self._write_soon()
        await written

    def note(self, event: bytes) -> None:
        """Write an event down within `FLUSH_EVERY`."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1, "the disk is too slow for them")
            return
        self._waiting.append((event, None))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._write_soon)

    async def close(self) -> None:
        """Write down what waits."""
        self._write_soon()
        if self._writing is not None:
            await self._writing

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None and self._waiting:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            await self._append([event for event, _ in batch])
            for _, written in batch:
                if written is not None and not written.done():  # done: its request was cut off
                    written.set_result(None)
        self._writing = None

    async def _append(self, events: Sequence[bytes]) -> None:
        try:
            await asyncio.to_thread(self._journal.append, events)
        except OSError as error:
            self._drop(len(events), str(error))
        else:
            self._failing = False

    def _drop(self, count: int, reason: str) -> None:
        if not self._failing:
            self._failing = True
            logger.error("events can't be written down and are dropped: %s", reason)
        for endpoint in self._endpoints:
            self._metrics.notification(endpoint.name, "dropped", count)
