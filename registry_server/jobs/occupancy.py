"""Who uses a storage: servers say so while they run, and of jobs that change it one runs at a time.

Both are small files in `.regatta` that are written again every half minute, so those of a killed process tell no lies
for long. A job that wants the storage for itself writes that first and looks for servers then; a server does it the
other way round, so one of them sees the other.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

BEAT: Final = 30.0
"""Seconds between two signs of life."""
DEAD_AFTER: Final = 120.0
"""Seconds without one after which a process is taken for dead."""
FORGOTTEN_AFTER: Final = 3600.0
"""Seconds after which the record of a dead server is removed."""
ASK_EVERY: Final = 1.0
"""Seconds between two looks at whether a job that has the storage for itself has ended."""

_SERVERS: Final = "servers"
_LEASES: Final = "leases"


class Occupied(Exception):
    """Another job is at work; the message says which, and since when there was a sign of it."""


class LeaseLost(Exception):
    """Another process took this one for dead, as it has not been able to write for too long."""


async def storage_time(aside: Aside) -> float:
    """What time it is by the storage's clock: seconds since 1970."""
    name = str(uuid.uuid4())
    await aside.write(f"clock/{name}", b"")
    written = await aside.written("clock")
    await aside.remove(f"clock/{name}")
    return written[name]


class Presence:
    """A server's sign of life."""

    def __init__(self, aside: Aside, name: str) -> None:
        self._aside = aside
        self._path = f"{_SERVERS}/{name}"

    async def announce(self) -> None:
        """Say that this server is there, and wait until no job has the storage for itself."""
        await self._tell()
        waiting = False
        while await _exclusive(self._aside):
            if not waiting:
                logger.warning("a job has the storage for itself; serving begins when it is done")
            waiting = True
            await asyncio.sleep(ASK_EVERY)
            await self._tell()

    async def keep(self) -> None:
        """Go on saying so, for ever."""
        while True:
            await asyncio.sleep(BEAT)
            with suppress(StorageError):  # health says so
                await self._tell()

    async def leave(self) -> None:
        """Say that this server is gone."""
        with suppress(StorageError):
            await self._aside.remove(self._path)

    async def _tell(self) -> None:
        await self._aside.write(self._path, b"")


async def servers(aside: Aside) -> int:
    """How many servers' processes have given a sign of life lately."""
    now = await storage_time(aside)
    written = await aside.written(_SERVERS)
    for name, at in written.items():
        if now - at > FORGOTTEN_AFTER:
            await aside.remove(f"{_SERVERS}/{name}")
    return sum(now - at <= DEAD_AFTER for at in written.values())


@dataclass(slots=True)
class Lease:
    """What a job holds while it runs."""

    exclusive: bool
    """Whether no server runs, and none may start."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another process has taken over."""
    alive: float = field(default_factory=time.monotonic)
    """When others have last had a sign of life."""

    def check(self) -> None:
        """Raises LeaseLost, also where others may take this process for dead by now."""
        if self.lost.is_set() or time.monotonic() - self.alive > DEAD_AFTER - BEAT:
            raise LeaseLost("others take this job for dead, as it could not write to the storage for too long")


@asynccontextmanager
async def lease(aside: Aside, job: str, *, exclusive: bool = True) -> AsyncGenerator[Lease]:
    """Hold the storage for a job; if no server uses it also against those that start, unless not `exclusive`.

    Raises Occupied, StorageError. Leases are numbered, and the highest one counts: of several who find it ended one
    makes the next.
    """
    number = await _next(aside)
    path = f"{_LEASES}/{number}"
    if not await aside.create(path, _dump(job, exclusive)):
        raise Occupied("another job has begun just now")
    for older in await _numbers(aside):
        if older < number:
            await aside.remove(f"{_LEASES}/{older}")
    held = Lease(exclusive=exclusive and not await servers(aside))
    beating = asyncio.create_task(_beat(aside, number, held, lambda: aside.write(path, _dump(job, held.exclusive))))
    try:
        if exclusive and not held.exclusive:
            await aside.write(path, _dump(job, exclusive=False))
        yield held
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        if not held.lost.is_set():
            await aside.write(path, _dump("", exclusive=False))


async def _next(aside: Aside) -> int:
    """The number of the next lease. Raises Occupied."""
    written = await _numbers(aside)
    if not written:
        return 1
    newest = max(written)
    job, _ = _load(await aside.read(f"{_LEASES}/{newest}"))
    silent = await storage_time(aside) - written[newest]
    if job and silent <= DEAD_AFTER:
        raise Occupied(f"{job} is at work on this storage: its last sign of life is {max(silent, 0):.0f} s old")
    return newest + 1


async def refuse_occupied(aside: Aside) -> None:
    """Raises Occupied where a job is at work, so that no other can begin; StorageError."""
    await _next(aside)


async def _beat(aside: Aside, number: int, held: Lease, write: Callable[[], Awaitable[None]]) -> None:
    while not held.lost.is_set():
        await asyncio.sleep(BEAT)
        try:
            if max(await _numbers(aside), default=0) > number:
                held.lost.set()
            else:
                began = time.monotonic()
                await write()
                held.alive = began
        except StorageError as error:
            logger.warning("could not give a sign of life: %s", error)


async def _exclusive(aside: Aside) -> bool:
    """Whether a job that has given a sign of life lately has the storage for itself."""
    written = await _numbers(aside)
    if not written:
        return False
    newest = max(written)
    job, exclusive = _load(await aside.read(f"{_LEASES}/{newest}"))
    return bool(job) and exclusive and await storage_time(aside) - written[newest] <= DEAD_AFTER


async def _numbers(aside: Aside) -> Mapping[int, float]:
    """The leases, and when there was a sign of life of each."""
    return {int(name): at for name, at in (await aside.written(_LEASES)).items() if name.isdecimal()}


def _dump(job: str, exclusive: bool) -> bytes:
    """An ended lease names no job."""
    return json.dumps({"job": job, "exclusive": exclusive}).encode()


def _load(content: bytes | None) -> tuple[str, bool]:
    try:
        document = json.loads(content or b"{}")
    except ValueError:
        return "", False
    return str(document.get("job", "")), bool(document.get("exclusive"))
