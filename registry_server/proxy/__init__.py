"""The pull-through cache: the registry's services with upstreams behind them.

    handler ─► cached service ─► metadata + storage                   what is here
                     └► upstream ─► verified ─► metadata + storage    what is not, or may have changed

It stores through the same uploads and manifests as a push does: what a cache holds is a registry's content like any.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from registry_server.config.proxy import Proxy
from registry_server.metadata.contract import Metadata
from registry_server.metrics import Metrics
from registry_server.proxy.arrivals import Arrivals
from registry_server.proxy.places import Places
from registry_server.proxy.records import Records
from registry_server.proxy.services import CachedBlobs, CachedLists, CachedManifests, CachedReferrers, CachedUploads
from registry_server.proxy.upstream import Sessions, Upstream
from registry_server.reference import Digest
from registry_server.registry import Registry
from registry_server.registry.holds import Holds
from registry_server.registry.lists import Pages
from registry_server.registry.manifests import Manifests
from registry_server.registry.quotas import Quotas
from registry_server.registry.rules import Rules
from registry_server.registry.uploads import Uploads
from registry_server.storage.contract import Storage, StorageError

logger = logging.getLogger(__name__)

CONFIRMED_LAG: Final = 60
"""Seconds by which other workers may learn late that a tag was confirmed."""
LONGEST_LAG: Final = 3600
"""Seconds by which it may be learnt late at most that something was pulled; a tenth of a shorter `ttl`."""


class PullThrough:
    """The cache of one worker."""

    def __init__(
        self,
        settings: Proxy,
        storage: Storage,
        metadata: Metadata,
        *,
        local: Manifests,
        quotas: Quotas,
        holds: Holds,
        pages: Pages,
        spool: Path,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`local` has the manifests of the registry's own repositories, which belong to no upstream.

        What comes from upstreams is not refused for `quotas`: it would break pulls.
        """
        self._ttl = settings.ttl.total_seconds()
        self._metadata = metadata
        self._clock = clock
        self._sessions = Sessions()
        upstreams = {
            prefix: Upstream(remote, settings.timeouts, self._sessions, metrics, clock=clock)
            for prefix, remote in settings.remotes.items()
        }
        self._places = Places(upstreams)
        self._pulled = Records(storage, "pulled", lag=self._lag, clock=clock)
        self._arrivals = Arrivals(Uploads(storage, metadata), metadata, spool)
        self.registry = Registry(
            blobs=CachedBlobs(storage, metadata, holds, places=self._places, arrivals=self._arrivals, metrics=metrics),
            uploads=CachedUploads(storage, metadata, quotas, holds, places=self._places),
            manifests=CachedManifests(
                local,
                Manifests(storage, metadata, Rules(sparse="all"), holds=holds),
                metadata,
                places=self._places,
                settings=settings,
                confirmed=Records(storage, "confirmed", lag=CONFIRMED_LAG, clock=clock),
                pulled=self._pulled,
                metrics=metrics,
                clock=clock,
            ),
            referrers=CachedReferrers(metadata, places=self._places),
            lists=CachedLists(metadata, pages, places=self._places),
            quotas=quotas,
            holds=holds,
        )

    @property
    def _lag(self) -> float:
        return min(self._ttl / 10, LONGEST_LAG)

    async def housekeep(self, *, paused: Callable[[], bool]) -> NoReturn:
        """Remove what killed servers have left, and let go of what nobody pulls unless `paused`, for ever."""
        self._arrivals.remove_forgotten()
        while True:
            try:
                if not paused():
                    await self.expire()
            except StorageError as error:
                logger.warning("could not look for what nobody pulls any more: %s", error)
            await asyncio.sleep(max(self._lag, 1))

    async def expire(self) -> None:
        """Take the manifests that nobody pulled for `ttl` from their repositories, and the tags that point to them.

        No content is removed: that is the garbage collector's business, which never takes it from under a reader.
        """
        if not self._ttl:
            return
        before = self._clock() - self._ttl
        async for record in self._pulled.all():
            if record.at < before and self._places.of(record.repository) is not None:
                logger.info("%s@%s was not pulled for %g s", record.repository, record.reference, self._ttl)
                await self._metadata.unlink_manifest(record.repository, Digest.parse(record.reference))
                await self._pulled.forget(record)

    async def close(self) -> None:
        """End what is being fetched."""
        await self._arrivals.close()
        await self._sessions.close()
