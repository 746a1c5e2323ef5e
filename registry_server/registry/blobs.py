"""Blobs of a repository: finding one, forgetting one."""

from collections.abc import AsyncGenerator

from registry_server.metadata.contract import Metadata
from registry_server.reference import Digest
from registry_server.registry.errors import BlobUnknown
from registry_server.registry.holds import Holds
from registry_server.storage.contract import Storage, StoredBlob


class Blobs:
    """What a repository holds by digest."""

    def __init__(self, storage: Storage, metadata: Metadata, holds: Holds | None = None) -> None:
        self._storage = storage
        self._metadata = metadata
        self._holds = holds or Holds(storage, metadata)

    async def find(self, repository: str, digest: Digest) -> StoredBlob:
        """Raises BlobUnknown, also for content that only other repositories hold.

        A manifest can be read as a blob of its repository, as in distribution.
        """
        content = await self._metadata.linked_blob(repository, digest)
        blob = None if content is None else await self._storage.blob(content)
        return blob or await self._manifest(repository, digest)

    async def url(self, blob: StoredBlob) -> str | None:
        """Where a client may read it for some minutes, if that is not here."""
        return await self._storage.blob_url(blob)

    def read(self, blob: StoredBlob, start: int, end: int) -> AsyncGenerator[bytes]:
        """Part of a blob that lies in no file, `end` exclusive."""
        return self._storage.read_range(blob, start, end)

    async def size(self, repository: str, digest: Digest) -> int:
        """Bytes of a blob, for a client that will rely on its being there. Raises BlobUnknown."""
        blob = await self._holds.blob(repository, digest) or await self._manifest(repository, digest)
        return blob.size

    async def _manifest(self, repository: str, digest: Digest) -> StoredBlob:
        content = await self._metadata.linked_manifest(repository, digest)
        blob = None if content is None else await self._storage.blob(content)
        if blob is None:
            raise BlobUnknown(detail={"digest": str(digest)})
        return blob

    async def delete(self, repository: str, digest: Digest) -> None:
        """Take a blob from the repository; its content stays until garbage is collected. Raises BlobUnknown."""
        if not await self._metadata.unlink_blob(repository, digest):
            raise BlobUnknown(detail={"digest": str(digest)})
