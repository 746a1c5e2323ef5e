"""Scrubbing: every content read again and compared with its digest, as disks and stores change bits over the years.

What is damaged is replaced by what the backup has of it. Where that has nothing, it goes into quarantine: clients are
told that it is not there, rather than given what it is not, and whoever pushes it again mends it.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from registry_server.jobs.copying import Damaged, copy, digest_of
from registry_server.jobs.occupancy import Lease
from registry_server.reference import Digest, InvalidDigest
from registry_server.storage.contract import Storage

JOB: Final = "scrub"
NOTE_EVERY: Final = 10.0
"""Seconds after which is noted how far it is, so that a run that is broken off goes on there."""

_POSITION: Final = "scrub-position"


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What became of a content."""

    digest: Digest
    size: int
    state: Literal["whole", "healed", "quarantined"]


async def scrub(storage: Storage, archive: Storage | None, *, rate: float, lease: Lease) -> AsyncGenerator[Scrubbed]:
    """Read all contents, `rate` bytes a second; `archive` has those that were backed up.

    A run that was broken off goes on where it stopped. Raises LeaseLost, StorageError.
    """
    done = await _position(storage)
    noted = time.monotonic()
    pace = _Pace(rate)
    async for blobs in storage.contents():
        for blob in sorted(blobs, key=lambda blob: blob.digest):
            if done is not None and blob.digest <= done:
                continue
            lease.check()
            scrubbed = await _scrub(storage, archive, blob.digest, pace)
            if scrubbed is not None:
                yield scrubbed
            if time.monotonic() - noted > NOTE_EVERY:
                noted = time.monotonic()
                await storage.aside.write(_POSITION, str(blob.digest).encode())
    await storage.aside.remove(_POSITION)


async def _scrub(storage: Storage, archive: Storage | None, digest: Digest, pace: "_Pace") -> Scrubbed | None:
    """None for what was removed meanwhile, or pushed again."""
    blob = await storage.in_place(digest)
    if blob is None:
        return None
    if await digest_of(storage, blob, pace=pace.keep) == digest:
        return Scrubbed(digest, blob.size, "whole")
    if archive is not None:
        with suppress(Damaged):
            await copy(archive, storage, digest)
            return Scrubbed(digest, blob.size, "healed")
    unchanged_since = math.nextafter(blob.touched, math.inf)
    if await storage.quarantine.discard(digest, untouched_since=unchanged_since):
        return Scrubbed(digest, blob.size, "quarantined")
    return None


async def _position(storage: Storage) -> Digest | None:
    """Up to where the last run has come, if it was broken off."""
    with suppress(InvalidDigest):
        return Digest.parse((await storage.aside.read(_POSITION) or b"").decode(errors="replace"))
    return None


class _Pace:
    """So many bytes a second, on the whole."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._bytes = 0

    async def keep(self, count: int) -> None:
        """Wait as long as these bytes should take."""
        self._bytes += count
        ahead = self._bytes / self._rate - (time.monotonic() - self._began)
        if ahead > 0:
            await asyncio.sleep(ahead)
