"""What is used of quotas, as metrics: one worker measures it, now and then."""

from typing import Final

from registry_server.metrics import (
    MAX_REPOSITORIES,
    QUOTA_BYTES,
    QUOTA_TAGS,
    QUOTA_USED_BYTES,
    QUOTA_USED_TAGS,
    USED_BYTES,
    USED_TAGS,
    Measured,
)
from registry_server.registry.quotas import Quotas

MEASURE_EVERY: Final = 60.0
"""Seconds. Storage is asked about every repository under a quota whose folders have changed, a bucket about all."""


async def measured(quotas: Quotas) -> Measured:
    """What quotas are about, of the largest repositories only where there are very many."""
    taken, sums = await quotas.measure()
    largest = sorted(taken, key=lambda name: -taken[name].bytes)[:MAX_REPOSITORIES]
    return {
        USED_BYTES: {(name,): taken[name].bytes for name in largest},
        USED_TAGS: {(name,): taken[name].tags for name in largest},
        QUOTA_USED_BYTES: {(limit.name,): used.bytes for limit, used in sums.items()},
        QUOTA_USED_TAGS: {(limit.name,): used.tags for limit, used in sums.items()},
        QUOTA_BYTES: {limit.labels: limit.bytes for limit in quotas.limits if limit.bytes is not None},
        QUOTA_TAGS: {limit.labels: limit.tags for limit in quotas.limits if limit.tags is not None},
    }
