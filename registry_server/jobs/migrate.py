"""All that a registry holds, moved to another storage or metadata driver while it serves.

    once or more: read what repositories hold ─► copy the contents that the target lacks ─► link, and take away the rest
    at last, while nobody pushes: the same, and prove that nothing differs

What is copied is verified on its way, and not copied again: a pass takes as long as what has changed since the last.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from registry_server.jobs.copying import Copied, Planned, Problem, clean_up, copy_all
from registry_server.jobs.occupancy import Lease
from registry_server.jobs.snapshot import Taken, contents_of, lost_from, sizes_of, snapshot
from registry_server.jobs.transfer import Done, differences, transfer
from registry_server.metadata.contract import Metadata
from registry_server.storage.contract import Storage

JOB: Final = "migrate"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a registry keeps what it holds."""

    storage: Storage
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a pass came to."""

    repositories: int
    tags: int
    manifests: int
    contents: int
    differences: Sequence[str]
    """Between the two places by now: what was pushed or deleted meanwhile, and what could not be moved."""


async def migrate(
    source: Place, target: Place, *, lease: Lease
) -> AsyncGenerator[Planned | Copied | Problem | Migrated]:
    """Make the target hold what the source does. Raises LeaseLost and StorageError; it can be ended and run again."""
    await clean_up(target.storage)
    taken = await snapshot(source.metadata)
    contents = contents_of(taken.values())
    there = {blob.digest async for blobs in target.storage.contents() for blob in blobs}
    sizes = await sizes_of(source.storage, contents - there)
    yield Planned(len(sizes), sum(sizes.values()), len(contents))
    async for event in copy_all(source.storage, target.storage, list(sizes), lease):
        yield event
    await clean_up(target.storage)
    async for done in transfer(target.storage, Taken(taken), target.metadata, prune=True):
        lease.check()
        for problem in _problems(done):
            yield problem
    yield Migrated(
        repositories=len(taken),
        tags=sum(len(one.tags) for one in taken.values()),
        manifests=sum(len(one.manifests) for one in taken.values()),
        contents=len(contents),
        differences=await _differences(source, target),
    )


def _problems(done: Done) -> list[Problem]:
    return [Problem(f"{done.repository}: {problem}") for problem in done.problems]


async def _differences(source: Place, target: Place) -> list[str]:
    """What differs by now, in either direction."""
    found = [
        f"{name}: {one.name} is {one.target or 'missing'}, in the old place {one.source or 'missing'}"
        async for name, several in differences(source.metadata, target.metadata)
        for one in several
    ]
    return found + await lost_from(await snapshot(target.metadata), target.storage)
