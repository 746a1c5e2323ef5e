"""Garbage collection: what nothing refers to goes, beside servers that push and delete meanwhile.

    mark a repository ─► release manifests ─► release blobs ─┐            empty the trash ─► discard contents
    what its tags and    that no tag leads    that no mani-  ├─► all ─►   of what nobody     that nothing refers
    manifests refer to   to, if asked for     fest refers to ┘            has asked for      to, into the trash

Only what nobody has touched for the grace period is taken, and looked at once more after it was: whoever began to rely
on it in between has touched it first (see `registry/holds`), and gets it back. Where no server uses the storage there
is nobody to wait for: everything goes at once.

What manifests say is read from themselves, or is what the database keeps of it. A manifest that can't be read may refer
to anything, so its repository keeps all it has.
"""

import math
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from registry_server.jobs.inuse import NOTHING, InUse
from registry_server.jobs.occupancy import Lease, storage_time
from registry_server.jobs.references import by_content, named, reachable, sources_first
from registry_server.metadata.contract import Holdings, LinkedBlob, LinkedManifest, Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.storage.contract import Storage, StoredBlob

References = Mapping[Digest, LinkedManifest | None]

JOB: Final = "garbage-collect"

Fate = Literal["manifest", "blob", "discarded", "purged", "restored"]
"""What becomes of something: a repository lets go of a manifest or of a blob; a content goes into the trash, is removed
for good, or is taken back from the trash as something refers to it."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A repository was looked through."""

    repository: str
    manifests: int
    """That it keeps."""
    unreadable: Sequence[Digest] = ()
    """Manifests whose content is lost or damaged, for whose sake it keeps everything."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Something has gone, or would go."""

    fate: Fate
    digest: Digest
    size: int
    """Bytes."""
    repository: str = ""
    """Whose manifest or blob it is; contents are nobody's."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be collected."""

    grace: timedelta
    """For how long something must have been left alone; see `garbagecollection.grace`."""
    remember: timedelta = timedelta(0)
    """How long retention wants to know of a manifest's pulls."""
    delete_untagged: bool = False
    """Whether manifests go to which no tag leads: by itself, by an index, or by the subject that one refers to."""
    in_use: InUse = NOTHING
    """What runs somewhere: it stays, tagged or not."""
    dry_run: bool = False
    """Whether to change nothing, and only say what would go."""


async def collect(
    storage: Storage, metadata: Metadata, options: Options, *, lease: Lease
) -> AsyncGenerator[Marked | Collected]:
    """Collect garbage, and tell of each repository and of all that goes. Raises LeaseLost and StorageError.

    It can be ended at any time and run again.
    """
    collector = _Collector(storage, metadata, options, lease, await _cutoff(storage, options, lease))
    for names in (metadata.everything(), metadata.hidden()):
        async for name in names:
            async for event in collector.repository(name):
                yield event
    async for event in collector.trash():
        yield event
    async for event in collector.contents():
        yield event
    if not options.dry_run and not lease.exclusive:
        longer = max(options.remember - options.grace, timedelta(0))
        await storage.forget_touches(collector.cutoff - longer.total_seconds())


async def _cutoff(storage: Storage, options: Options, lease: Lease) -> float:
    """Seconds since 1970 by the storage's clock: what was touched then or later stays."""
    if lease.exclusive:
        return math.inf
    now = time.time() if options.dry_run else await storage_time(storage.aside)
    return now - options.grace.total_seconds()


@dataclass(slots=True)
class _Collector:
    """One run."""

    storage: Storage
    metadata: Metadata
    options: Options
    lease: Lease
    cutoff: float
    referenced: set[Digest] = field(default_factory=set)
    """Canonical digests of all contents that something refers to."""

    async def repository(self, name: str) -> AsyncGenerator[Marked | Collected]:
        """Let a repository go of what it does not need, and note what it does."""
        self.lease.check()
        holdings = await self.metadata.holdings(name)
        references = await self.metadata.references(name)
        unreadable = [digest for digest, manifest in references.items() if manifest is None]
        kept = {digest: manifest for digest, manifest in references.items() if manifest is not None}
        if self.options.delete_untagged and not unreadable:
            async for manifest in self._release_untagged(name, holdings, kept):
                del kept[manifest.digest]
                yield Collected("manifest", manifest.digest, manifest.descriptor.size, name)
        needed = named(kept.values())
        self.referenced.update(holdings.manifests[digest] for digest in unreadable if digest in holdings.manifests)
        self.referenced.update(needed)
        empty = not kept and not unreadable
        for content, names in by_content(holdings.blobs).items():
            if unreadable or content in needed or not needed.isdisjoint(names):
                self.referenced.add(content)
                empty = False
            elif (blob := await self._release_blob(name, content, names)) is not None:
                yield Collected("blob", content, blob.size, name)
            else:
                empty = False
        if empty and not self.options.dry_run:
            await self.storage.prune(f"repositories/{name}")
        yield Marked(name, len(kept) + len(unreadable), unreadable)

    async def trash(self) -> AsyncGenerator[Collected]:
        """Remove what has been in the trash for the grace period, and take back what something refers to after all."""
        async for blobs in self.storage.trash.contents():
            self.lease.check()
            for blob in blobs:
                if blob.digest in self.referenced:
                    if self.options.dry_run or await self.storage.trash.restore(blob.digest):
                        yield Collected("restored", blob.digest, blob.size)
                elif blob.touched < self.cutoff:
                    if not self.options.dry_run:
                        await self.storage.trash.purge(blob.digest)
                    yield Collected("purged", blob.digest, blob.size)

    async def contents(self) -> AsyncGenerator[Collected]:
        """Move what nothing refers to into the trash; where no server runs remove it."""
        async for blobs in self.storage.contents():
            self.lease.check()
            left = [blob for blob in blobs if blob.digest not in self.referenced and blob.touched < self.cutoff]
            gone = await in_parallel(self._discard, left)
            discarded = [blob for blob, has_gone in zip(left, gone, strict=True) if has_gone]
            if discarded and not self.options.dry_run:
                await self.metadata.forget([blob.digest for blob in discarded])
            for blob in discarded:
                yield Collected("purged" if self.lease.exclusive else "discarded", blob.digest, blob.size)

    async def _release_untagged(
        self, repository: str, holdings: Holdings, references: Mapping[Digest, LinkedManifest]
    ) -> AsyncGenerator[LinkedManifest]:
        """The manifests that a repository has let go of.

        Whatever leads to another manifest comes before it, as what turns out to stay keeps what it leads to.
        """
        kept = reachable([*holdings.tags.values(), *self.options.in_use.digests(repository)], references)
        for digest in sources_first(references):
            if digest in kept or digest not in holdings.manifests:
                continue
            manifest = references[digest]
            if await self._release_manifest(repository, manifest):
                yield manifest
            else:
                kept |= reachable([digest], references)

    async def _release_manifest(self, repository: str, manifest: LinkedManifest) -> bool:
        if await self._touched_lately(manifest.content):
            return False
        if self.options.dry_run:
            return True
        if not await self.metadata.release_manifest(repository, manifest.digest):
            return False
        if await self._touched_lately(manifest.content):
            await self.metadata.link_manifests(repository, [manifest], tags={})
            return False
        return True

    async def _release_blob(self, repository: str, content: Digest, names: Collection[Digest]) -> StoredBlob | None:
        """Take a blob from a repository; what was taken, None where it stays."""
        if await self._touched_lately(content):
            return None
        blob = await self.storage.in_place(content) or StoredBlob(content, 0)
        if self.options.dry_run:
            return blob
        for name in sorted(names, key=lambda name: name == content):  # the others are names of this one
            await self.metadata.unlink_blob(repository, name)
        if await self._touched_lately(content):
            aliases = [name for name in names if name != content]
            await self.metadata.link_blobs(repository, [LinkedBlob(content, blob.size, aliases)])
            return None
        return blob

    async def _discard(self, blob: StoredBlob) -> bool:
        if self.options.dry_run:
            return True
        discarded = await self.storage.trash.discard(blob.digest, untouched_since=self.cutoff)
        if discarded and self.lease.exclusive:
            await self.storage.trash.purge(blob.digest)
        return discarded

    async def _touched_lately(self, content: Digest) -> bool:
        blob = await self.storage.in_place(content)
        return blob is not None and blob.touched >= self.cutoff
