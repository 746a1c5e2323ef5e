"""The safety net under the watches: from time to time the cache is replaced wholesale by a LIST.

A watch that was lost and started anew reports no deletions from in between, and nobody would ever notice them.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from prometheus_client import Counter, Gauge

from registry_operator.api.kinds import CHILDREN, REGISTRY
from registry_operator.cluster.kubernetes.api import Refusal
from registry_operator.cluster.kubernetes.cluster import KubernetesCluster
from registry_operator.cluster.protocol import Key, Rejected, Unavailable
from registry_operator.runtime.handlers import wake_owners
from registry_operator.runtime.queue import Backoff

RESYNCS = Counter("regatta_operator_resyncs", "Times the cache was replaced by LISTs, by result.", ["result"])
MISSED = Counter("regatta_operator_missed_events", "Changes that a LIST showed and no watch had.", ["kind"])
CACHED = Gauge("regatta_operator_cached_objects", "Objects in the cache.", ["kind"])

SETTLE_SECONDS: Final = 2.0
"""How long after a lost watch to list: kinds lose theirs together, one LIST of each then does for all."""

logger = logging.getLogger(__name__)


class Resync:
    """Lists all kinds every `interval` seconds, give or take a fifth, and soon after `request()`."""

    def __init__(self, cluster: KubernetesCluster, *, wake: Callable[[Key], None], interval: float) -> None:
        self._cluster = cluster
        self._wake = wake
        self._interval: Final = interval
        self._requested = asyncio.Event()

    def request(self) -> None:
        """A watch was lost: list soon."""
        self._requested.set()

    async def first(self) -> None:
        """Fill the cache, however long it takes the API server to answer. Wakes every Registry and owner of a child."""
        backoff, failures = Backoff(longest=15.0), 0
        while True:
            try:
                return await self._all()
            except (Rejected, Unavailable) as error:
                failures += 1
                delay = backoff.delay(failures)
                logger.warning("waiting for the API server, next try in %.1f s: %s", delay, _explained(error))
                await asyncio.sleep(delay)

    async def run(self) -> None:
        """List again and again, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval * random.uniform(0.8, 1.2)):  # noqa: S311 - no secret
                    await self._requested.wait()
                await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass
            self._requested.clear()
            try:
                await self._all()
                RESYNCS.labels("done").inc()
            except (Rejected, Unavailable) as error:
                RESYNCS.labels("failed").inc()
                self._requested.set()
                logger.warning("the resync failed and will be tried again: %s", _explained(error))
                await asyncio.sleep(SETTLE_SECONDS)

    async def _all(self) -> None:
        for kind in (REGISTRY, *CHILDREN):
            missed = await self._cluster.relist(kind)
            MISSED.labels(kind.name).inc(len(missed))
            CACHED.labels(kind.name).set(self._cluster.cache.count(kind))
            wake_owners(self._cluster, kind, missed, self._wake)


def _explained(error: Exception) -> str:
    if isinstance(error, Refusal) and error.code == HTTPStatus.NOT_FOUND:
        return (
            f"the API server does not know {REGISTRY.plural} of {REGISTRY.api_version}; "
            "install it with `registry-operator crds | kubectl apply --server-side -f -`"
        )
    return str(error)
