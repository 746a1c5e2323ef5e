"""Holds: what somebody is told to be there stays there for a while.

A client asks for a layer, is told that it is there, and pushes a manifest that needs it minutes later. In between
nothing refers to it, so the collector (`jobs/garbage`) leaves alone what was touched within the grace period, and
whoever answers such a question touches what it is about: at most once per half of that, so that an answer always holds
for the other half. Touch first, look then: a collector that did not see the touch has moved it by the time of the look.
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final

from registry_server.metadata.contract import Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.storage.contract import Storage, StoredBlob

GRACE: Final = timedelta(hours=24)
"""What a client may take from its first question to its manifest, unless the configuration says otherwise."""
REMEMBERED: Final = 65_536
"""Contents that a process remembers to have touched, about 16 MB; of others it asks the storage."""


class Holds:
    """Finds contents for those who rely on finding them again."""

    def __init__(self, storage: Storage, metadata: Metadata, grace: timedelta = GRACE) -> None:
        self._storage = storage
        self._metadata = metadata
        self._half = grace.total_seconds() / 2
        self._held: OrderedDict[Digest, float] = OrderedDict()

    async def blob(self, repository: str, digest: Digest) -> StoredBlob | None:
        """A blob that a repository holds, and that stays."""
        blob = await self._blob(repository, digest)
        if blob is not None and await self._touch(blob):
            blob = await self._blob(repository, digest)
        return blob

    async def blobs(self, repository: str, digests: Sequence[Digest]) -> Collection[Digest]:
        """Those of many blobs that a repository holds, and that stay."""
        found = await self._blobs(repository, digests)
        touched = await in_parallel(self._touch, list(found.values()))
        stale = {digest for digest, was_touched in zip(found, touched, strict=True) if was_touched}
        return (found.keys() - stale) | (await self._blobs(repository, list(stale))).keys()

    async def manifests(self, repository: str, digests: Sequence[Digest]) -> Collection[Digest]:
        """Those of many manifests that a repository holds, and that stay."""
        found = await self._metadata.linked_manifests(repository, digests) if digests else {}
        touched = await in_parallel(self.content, list(found.values()))
        return await self._metadata.linked_manifests(repository, list(found)) if any(touched) else found

    async def manifest(self, repository: str, digest: Digest) -> Digest | None:
        """The canonical digest of a manifest that a repository holds, and that stays."""
        content = await self._metadata.linked_manifest(repository, digest)
        if content is not None and await self.content(content):
            content = await self._metadata.linked_manifest(repository, digest)
        return content

    async def content(self, content: Digest) -> bool:
        """Let a content stay; whether it had to be touched for that, so that it is to be looked for once more."""
        if self._is_held(content):
            return False
        blob = await self._storage.blob(content)
        return blob is not None and await self._touch(blob)

    async def _blob(self, repository: str, digest: Digest) -> StoredBlob | None:
        content = await self._metadata.linked_blob(repository, digest)
        return None if content is None else await self._storage.blob(content)

    async def _blobs(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, StoredBlob]:
        linked = await self._metadata.linked_blobs(repository, digests) if digests else {}
        stored = await in_parallel(self._storage.blob, list(linked.values()))
        return {digest: blob for digest, blob in zip(linked, stored, strict=True) if blob is not None}

    async def _touch(self, blob: StoredBlob) -> bool:
        if self._is_held(blob.digest):
            return False
        age = max(time.time() - blob.touched, 0.0)
        stale = age >= self._half
        if stale:
            await self._storage.touch(blob.digest)
            age = 0.0
        self._held[blob.digest] = time.monotonic() - age
        self._held.move_to_end(blob.digest)
        if len(self._held) > REMEMBERED:
            self._held.popitem(last=False)
        return stale

    def _is_held(self, content: Digest) -> bool:
        """Whether it was written or touched within half of the grace period, as far as this process remembers."""
        return time.monotonic() - self._held.get(content, -self._half) < self._half
