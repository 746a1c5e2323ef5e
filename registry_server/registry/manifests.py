"""Manifests of a repository: checked when pushed, found by tag or digest."""

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from registry_server.metadata.contract import Metadata, Tagged
from registry_server.parallel import in_parallel
from registry_server.reference import CANONICAL, Digest
from registry_server.registry.errors import Denied, DigestInvalid, ManifestBlobUnknown, ManifestUnknown
from registry_server.registry.holds import Holds
from registry_server.registry.manifest import Manifest
from registry_server.registry.quotas import Quotas
from registry_server.registry.rules import Rules
from registry_server.storage.contract import Storage

logger = logging.getLogger(__name__)

MAX_SIZE: Final = 4 << 20
"""Bytes of a manifest; the specification asks for at least 4 MiB."""
KEPT_BYTES: Final = 16 << 20
"""Manifests a process keeps in memory; content-addressed, they can't go stale. Links are looked up each time."""
TAGS_AT_ONCE: Final = 1000
"""Tags of a repository that are looked through at once."""
KEPT_SIZE: Final = 256 << 10
"""A larger manifest is read from storage each time."""


class Manifests:
    """What repositories hold by tag and by manifest digest."""

    def __init__(
        self,
        storage: Storage,
        metadata: Metadata,
        rules: Rules,
        quotas: Quotas | None = None,
        holds: Holds | None = None,
    ) -> None:
        self._rules = rules
        self._quotas = quotas or Quotas(metadata)
        self._holds = holds or Holds(storage, metadata)
        self._storage = storage
        self._metadata = metadata
        self._kept: OrderedDict[Digest, Manifest] = OrderedDict()
        self._kept_bytes = 0
        self.immutable: Callable[[str, str], bool] | None = None
        """Whether a repository's tag, once there, stays where it points; None where none does."""

    async def by_tag(self, repository: str, tag: str) -> tuple[Digest, Manifest]:
        """Raises ManifestUnknown."""
        tagged = await self._metadata.tagged(repository, tag)
        if tagged is not None and await self._holds.content(tagged.content):
            tagged = await self._metadata.tagged(repository, tag)
        manifest = None if tagged is None else await self._read(tagged.content)
        if tagged is None or manifest is None:
            raise ManifestUnknown(detail={"tag": tag})
        return tagged.digest, manifest

    async def by_digest(self, repository: str, digest: Digest) -> Manifest:
        """Raises ManifestUnknown."""
        content = await self._holds.manifest(repository, digest)
        manifest = None if content is None else await self._read(content)
        if manifest is None:
            raise ManifestUnknown(detail={"digest": str(digest)})
        return manifest

    async def put(self, repository: str, manifest: Manifest, digest: Digest, *, tags: Sequence[str] = ()) -> None:
        """Store a manifest, and point tags to it.

        `digest` names the manifest in whichever algorithm the client chose. Raises DigestInvalid, ManifestBlobUnknown,
        and Denied for a tag that must not move and where the repository may not take so much more.
        """
        content = Digest.of(manifest.content)
        found = content if digest.algorithm == CANONICAL else Digest.of(manifest.content, digest.algorithm)
        if found != digest:
            raise DigestInvalid(detail={"digest": str(digest), "found": str(found)})
        await self._check_references(repository, manifest)
        claimed = [tag for tag in tags if self._is_immutable(repository, tag)]
        for tag in claimed:
            _check_standing(tag, await self._metadata.tagged(repository, tag), content)
        async with self._room(repository, manifest, digest, tags):
            await self._storage.write_blob(content, manifest.content)
            linked = manifest.linked(digest, content)
            movable = dict.fromkeys((tag for tag in tags if tag not in claimed), digest)
            await self._metadata.link_manifests(repository, [linked], tags=movable)
            for tag in claimed:
                _check_standing(tag, await self._metadata.claim_tag(repository, tag, digest), content)

    async def delete(self, repository: str, digest: Digest) -> None:
        """Take a manifest, and the tags that point to it, from the repository. Raises ManifestUnknown, Denied."""
        if self.immutable is not None:
            await self._check_untagged(repository, digest)
        if not await self._metadata.unlink_manifest(repository, digest):
            raise ManifestUnknown(detail={"digest": str(digest)})

    async def tags_of(self, repository: str, digest: str) -> list[str]:
        """The tags that point to a digest, which need not be one."""
        found: list[str] = []
        after = ""
        while tags := await self._metadata.tags(repository, after=after, limit=TAGS_AT_ONCE):
            targets = await in_parallel(lambda tag: self._metadata.tagged(repository, tag), tags)
            found += [tag for tag, to in zip(tags, targets, strict=True) if to is not None and str(to.digest) == digest]
            after = tags[-1]
        return found

    async def untag(self, repository: str, tag: str) -> None:
        """Raises ManifestUnknown, Denied."""
        if self._is_immutable(repository, tag) and await self._metadata.tagged(repository, tag) is not None:
            raise _immutable(tag)
        if not await self._metadata.untag(repository, tag):
            raise ManifestUnknown(detail={"tag": tag})

    @asynccontextmanager
    async def _room(
        self, repository: str, manifest: Manifest, digest: Digest, tags: Sequence[str]
    ) -> AsyncGenerator[None]:
        """Room for a manifest and its tags, as far as the repository has them not yet. Raises Denied."""
        size = new = 0
        if self._quotas.of(repository):
            held = await self._metadata.linked_manifest(repository, digest)
            standing = await in_parallel(lambda tag: self._metadata.tagged(repository, tag), tags)
            size, new = 0 if held else len(manifest.content), standing.count(None)
        async with self._quotas.room(repository, size=size, tags=new):
            yield

    async def _check_untagged(self, repository: str, digest: Digest) -> None:
        """Raises Denied where an immutable tag points to a manifest."""
        for tag in await self.tags_of(repository, str(digest)):
            if self._is_immutable(repository, tag):
                raise _immutable(tag)

    def _is_immutable(self, repository: str, tag: str) -> bool:
        return self.immutable is not None and self.immutable(repository, tag)

    async def _check_references(self, repository: str, manifest: Manifest) -> None:
        self._rules.check_urls(manifest)
        blobs = await self._holds.blobs(repository, manifest.blobs)
        children = await self._holds.manifests(repository, manifest.manifests)
        missing = [child for child in self._rules.required(manifest) if child not in children]
        if self._rules.sparse != "all":
            missing = [*(blob for blob in manifest.blobs if blob not in blobs), *missing]
        if missing:
            raise ManifestBlobUnknown(detail=[{"digest": str(digest)} for digest in missing])

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


def _check_standing(tag: str, standing: Tagged | None, content: Digest) -> None:
    """Raises Denied where an immutable tag points to another manifest."""
    if standing is not None and standing.content != content:
        raise _immutable(tag)
