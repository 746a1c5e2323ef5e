"""When something last happened to a tag or a manifest that the cache holds.

A record is a small file of the storage beside distribution's own folders, which no other registry looks at. So it
survives restarts, and all workers and replicas know of it.
"""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from registry_server.storage.contract import Storage, StorageError

logger = logging.getLogger(__name__)

KEPT: Final = 16_384
"""Records of a kind that a worker keeps in memory."""


@dataclass(frozen=True, slots=True)
class Record:
    """When it last happened, in seconds since 1970."""

    repository: str
    reference: str
    """A tag or a digest."""
    at: float


class Records:
    """One kind of record, in a folder of its own."""

    def __init__(self, storage: Storage, kind: str, *, lag: float, clock: Callable[[], float] = time.time) -> None:
        """What happens again within `lag` seconds is kept in memory alone."""
        self._storage = storage
        self._folder = f"proxy/{kind}"
        self._lag = lag
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """When it happened, and what of that is in storage."""

    async def when(self, repository: str, reference: str) -> float | None:
        """When it last happened; None if it never did."""
        kept = self._kept.get((repository, reference))
        if kept is not None:
            return kept[0]
        record = await self._read(self._name(repository, reference))
        if record is None:
            return None
        self._keep(repository, reference, record.at, record.at)
        return record.at

    async def note(self, repository: str, reference: str, at: float | None = None) -> None:
        """It happened, now unless told otherwise. A storage that can't keep that fails no pull."""
        at = self._clock() if at is None else at
        kept = self._kept.get((repository, reference))
        stored = 0.0 if kept is None else kept[1]
        if abs(at - stored) >= self._lag:
            content = json.dumps({"repository": repository, "reference": reference, "at": at}).encode()
            try:
                await self._storage.write((f"{self._folder}/{self._name(repository, reference)}/record", content))
                stored = at
            except StorageError as error:
                logger.warning("could not note what happened to %s of %s: %s", reference, repository, error)
        self._keep(repository, reference, at, stored)

    async def all(self) -> AsyncIterator[Record]:
        """What storage has, in no order."""
        for name in await self._storage.names(self._folder):
            record = await self._read(name)
            if record is not None:
                yield record

    async def forget(self, record: Record) -> None:
        self._kept.pop((record.repository, record.reference), None)
        await self._storage.remove(f"{self._folder}/{self._name(record.repository, record.reference)}")

    async def _read(self, name: str) -> Record | None:
        content = await self._storage.read(f"{self._folder}/{name}/record")
        try:
            return None if content is None else Record(**json.loads(content))
        except (ValueError, TypeError):
            logger.warning("the record %s/%s is damaged; it counts as none", self._folder, name)
            return None

    def _keep(self, repository: str, reference: str, at: float, stored: float) -> None:
        self._kept[repository, reference] = (at, stored)
        self._kept.move_to_end((repository, reference))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    @staticmethod
    def _name(repository: str, reference: str) -> str:
        return hashlib.sha256(f"{repository}:{reference}".encode()).hexdigest()
