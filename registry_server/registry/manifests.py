"""Manifests of a repository: checked when pushed, found by tag or digest."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Literal

from registry_server.metadata.contract import Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import CANONICAL, Digest
from registry_server.registry.errors import Denied, DigestInvalid, ManifestBlobUnknown, ManifestUnknown
from registry_server.registry.manifest import Manifest
from registry_server.storage.contract import Storage

logger = logging.getLogger(__name__)

MAX_SIZE: Final = 4 << 20
"""Bytes of a manifest; the specification asks for at least 4 MiB."""
KEPT_BYTES: Final = 16 << 20
"""Manifests a process keeps in memory; content-addressed, they can't go stale. Links are looked up each time."""
KEPT_SIZE: Final = 256 << 10
"""A larger manifest is read from storage each time."""


Sparse = Literal["none", "indexes", "all"]
"""Which manifests may be pushed although something they list is not in the repository."""


class Manifests:
    """What repositories hold by tag and by manifest digest."""

    def __init__(self, storage: Storage, metadata: Metadata, sparse: Sparse) -> None:
        self._sparse = sparse
        self._storage = storage
        self._metadata = metadata
        self._kept: OrderedDict[Digest, Manifest] = OrderedDict()
        self._kept_bytes = 0
        self.immutable: Callable[[str, str], bool] | None = None
        """Whether a repository's tag, once there, stays where it points; None where none does."""

    async def by_tag(self, repository: str, tag: str) -> tuple[Digest, Manifest]:
        """Raises ManifestUnknown."""
        digest = await self._metadata.tagged(repository, tag)
        if digest is None:
            raise ManifestUnknown(detail={"tag": tag})
        return digest, await self.by_digest(repository, digest)

    async def by_digest(self, repository: str, digest: Digest) -> Manifest:
        """Raises ManifestUnknown."""
        content = await self._metadata.linked_manifest(repository, digest)
        manifest = None if content is None else await self._read(content)
        if manifest is None:
            raise ManifestUnknown(detail={"digest": str(digest)})
        return manifest

    async def put(self, repository: str, manifest: Manifest, digest: Digest, *, tags: Sequence[str] = ()) -> None:
        """Store a manifest, and point tags to it.

        `digest` names the manifest in whichever algorithm the client chose. Raises DigestInvalid, ManifestBlobUnknown,
        and Denied for a tag that must not move.
        """
        content = Digest.of(manifest.content)
        found = content if digest.algorithm == CANONICAL else Digest.of(manifest.content, digest.algorithm)
        if found != digest:
            raise DigestInvalid(detail={"digest": str(digest), "found": str(found)})
        await self._check_references(repository, manifest)
        claimed = [tag for tag in tags if self._is_immutable(repository, tag)]
        for tag in claimed:
            await self._check_standing(repository, tag, await self._metadata.tagged(repository, tag), content)
        await self._storage.write_blob(content, manifest.content)
        movable = [tag for tag in tags if tag not in claimed]
        await self._metadata.link_manifest(repository, digest, content, tags=movable)
        for tag in claimed:
            standing = await self._metadata.claim_tag(repository, tag, digest)
            await self._check_standing(repository, tag, standing, content)

    async def delete(self, repository: str, digest: Digest) -> None:
        """Take a manifest, and the tags that point to it, from the repository. Raises ManifestUnknown, Denied."""
        if self.immutable is not None:
            for tag in await self._metadata.tags(repository) or ():
                if self._is_immutable(repository, tag) and await self._metadata.tagged(repository, tag) == digest:
                    raise _immutable(tag)
        if not await self._metadata.unlink_manifest(repository, digest):
            raise ManifestUnknown(detail={"digest": str(digest)})

    async def untag(self, repository: str, tag: str) -> None:
        """Raises ManifestUnknown, Denied."""
        if self._is_immutable(repository, tag) and await self._metadata.tagged(repository, tag) is not None:
            raise _immutable(tag)
        if not await self._metadata.untag(repository, tag):
            raise ManifestUnknown(detail={"tag": tag})

    def _is_immutable(self, repository: str, tag: str) -> bool:
        return self.immutable is not None and self.immutable(repository, tag)

    async def _check_standing(self, repository: str, tag: str, standing: Digest | None, content: Digest) -> None:
        """Raises Denied where an immutable tag points to another manifest."""
        if standing is None or standing == content:
            return
        if await self._metadata.linked_manifest(repository, standing) != content:
            raise _immutable(tag)

    async def _check_references(self, repository: str, manifest: Manifest) -> None:
        missing: list[str] = []
        if self._sparse != "all":
            found = await in_parallel(lambda blob: self._has_blob(repository, blob), manifest.blobs)
            missing += [str(blob) for blob, has in zip(manifest.blobs, found, strict=True) if not has]
        if self._sparse == "none":
            links = await in_parallel(
                lambda child: self._metadata.linked_manifest(repository, child), manifest.manifests
            )
            missing += [str(child) for child, link in zip(manifest.manifests, links, strict=True) if link is None]
        if missing:
            raise ManifestBlobUnknown(detail=[{"digest": digest} for digest in missing])

    async def _has_blob(self, repository: str, digest: Digest) -> bool:
        content = await self._metadata.linked_blob(repository, digest)
        return content is not None and await self._storage.blob(content) is not None

    async def _read(self, digest: Digest) -> Manifest | None:
        kept = self._kept.get(digest)
        if kept is not None:
            self._kept.move_to_end(digest)
            return kept
        content = await self._storage.read_blob(digest)
        if content is None:
            return None
        if Digest.of(content) != digest:
            logger.error("the content of manifest %s is damaged in storage; it is not served", digest)
            return None
        manifest = Manifest.stored(content)
        self._keep(digest, manifest)
        return manifest

    def _keep(self, digest: Digest, manifest: Manifest) -> None:
        if len(manifest.content) > KEPT_SIZE:
            return
        self._kept[digest] = manifest
        self._kept_bytes += len(manifest.content)
        while self._kept_bytes > KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped.content)


def _immutable(tag: str) -> Denied:
    return Denied(f"tag {tag} is immutable: it stays what it is; push another tag", {"tag": tag})
