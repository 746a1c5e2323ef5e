"""What a registry holds at a moment, all of it at once: what backups keep, and what moves to another place."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import replace

from registry_server.jobs.transfer import compare
from registry_server.metadata.contract import Holdings, Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.storage.contract import Storage

Snapshot = Mapping[str, Holdings]
"""By repository."""


async def snapshot(metadata: Metadata) -> dict[str, Holdings]:
    """What each repository holds now."""
    return {name: _consistent(await metadata.holdings(name)) async for name in metadata.everything()}


def contents_of(holdings: Iterable[Holdings]) -> set[Digest]:
    """The contents that repositories need."""
    return {content for one in holdings for content in (*one.blobs.values(), *one.manifests.values())}


async def sizes_of(storage: Storage, contents: Collection[Digest]) -> dict[Digest, int]:
    """The bytes of those of many contents that are there, from one list of all; what is in the trash is asked for."""
    sizes = {blob.digest: blob.size async for blobs in storage.contents() for blob in blobs if blob.digest in contents}
    others = [digest for digest in contents if digest not in sizes]
    found = await in_parallel(storage.blob, others)
    sizes.update((digest, blob.size) for digest, blob in zip(others, found, strict=True) if blob is not None)
    return dict(sorted(sizes.items()))


async def missing_from(taken: Snapshot, storage: Storage, metadata: Metadata, *, called: str) -> list[str]:
    """What is not there as a snapshot has it, a sentence for each; what is there beyond does not matter."""
    differences: list[str] = []
    for name, ours in sorted(taken.items()):
        theirs = await metadata.holdings(name)
        differences += [
            f"{name}: {one.name} is {one.target or 'missing'}, in {called} {one.source}"
            for one in compare(name, ours, theirs)
            if one.source is not None
        ]
    return differences + await lost_from(taken, storage)


async def lost_from(taken: Snapshot, storage: Storage) -> list[str]:
    """The contents that a storage does not have, a sentence for each."""
    contents = sorted(contents_of(taken.values()))
    found = await in_parallel(storage.blob, contents)
    return [f"{digest} is not in storage" for digest, blob in zip(contents, found, strict=True) if blob is None]


class Taken:
    """A snapshot as `transfer` reads it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    async def everything(self) -> AsyncGenerator[str]:
        for name in sorted(self._snapshot):
            yield name

    async def holdings(self, repository: str) -> Holdings:
        return self._snapshot[repository]


def _consistent(held: Holdings) -> Holdings:
    """Without the tags of manifests that were deleted while it was read."""
    return replace(held, tags={tag: digest for tag, digest in held.tags.items() if digest in held.manifests})
