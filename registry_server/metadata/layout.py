"""Metadata as distribution keeps it: link files beside the blobs, each holding a digest.

Paths and the order of writes are those of distribution's `registry/storage/paths.go` and `tagstore.go`, so that either
server can take over a volume from the other.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from registry_server.parallel import in_parallel
from registry_server.reference import ALGORITHMS, Digest, InvalidDigest, is_repository, is_tag
from registry_server.storage.contract import Storage

KEPT_TAG_LISTS: Final = 1024
"""Repositories whose sorted tags a process keeps while their folder does not change."""


class LayoutMetadata:
    """The metadata contract on link files."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._tag_lists: OrderedDict[str, tuple[object, list[str]]] = OrderedDict()

    async def link_blob(self, repository: str, digest: Digest, *, aliases: Sequence[Digest] = ()) -> None:
        content = str(digest).encode()
        await self._storage.write(*((_layer(repository, name), content) for name in (digest, *aliases)))

    async def linked_blob(self, repository: str, digest: Digest) -> Digest | None:
        return _target(await self._storage.read(_layer(repository, digest)))

    async def unlink_blob(self, repository: str, digest: Digest) -> bool:
        return await self._storage.remove(_folder(_layer(repository, digest)))

    async def candidates(self) -> Sequence[str]:
        return await self._storage.walk("repositories", until="_layers")

    async def holder(self, digest: Digest, *, among: Sequence[str]) -> str | None:
        found = await self._storage.first_existing([_layer(repository, digest) for repository in among])
        return None if found is None else among[found]

    async def link_manifest(self, repository: str, digest: Digest, content: Digest, *, tags: Sequence[str]) -> None:
        writes = [(_revision(repository, digest), str(content).encode())]
        for tag in tags:
            link = str(digest).encode()
            writes += [(_tag_index(repository, tag, digest), link), (_tag_current(repository, tag), link)]
        await self._storage.write(*writes)

    async def claim_tag(self, repository: str, tag: str, digest: Digest) -> Digest:
        current, link = _tag_current(repository, tag), str(digest).encode()
        await self._storage.write((_tag_index(repository, tag, digest), link))
        if not await self._storage.create(current, link):
            if (standing := await self.tagged(repository, tag)) is not None:
                return standing
            await self._storage.write((current, link))  # a link that holds no digest claims nothing
        return digest

    async def linked_manifest(self, repository: str, digest: Digest) -> Digest | None:
        return _target(await self._storage.read(_revision(repository, digest)))

    async def unlink_manifest(self, repository: str, digest: Digest) -> bool:
        if await self.linked_manifest(repository, digest) is None:
            return False
        tags = await self.tags(repository) or ()
        targets = await in_parallel(lambda tag: self.tagged(repository, tag), tags)
        for tag, target in zip(tags, targets, strict=True):
            if target == digest:
                await self.untag(repository, tag)
        return await self._storage.remove(_folder(_revision(repository, digest)))

    async def tagged(self, repository: str, tag: str) -> Digest | None:
        return _target(await self._storage.read(_tag_current(repository, tag)))

    async def untag(self, repository: str, tag: str) -> bool:
        return await self._storage.remove(f"{_tags(repository)}/{tag}")

    async def tags(self, repository: str) -> Sequence[str] | None:
        folder = _tags(repository)
        version = await self._storage.version(folder)
        kept = self._tag_lists.get(repository)
        if kept is not None and kept[0] == version:
            return kept[1]
        names, settled = await self._storage.folders(folder, having="current/link")
        tags = sorted(filter(is_tag, names))
        if not tags and not await self._storage.exists(_manifests(repository)):
            return None
        # A folder whose tag is still being written would change no more when its link comes, so it isn't kept.
        if version is not None and settled:
            self._tag_lists[repository] = (version, tags)
            if len(self._tag_lists) > KEPT_TAG_LISTS:
                self._tag_lists.popitem(last=False)
        return tags

    async def manifests(self, repository: str) -> tuple[object | None, list[Digest]]:
        folders = {algorithm: f"{_manifests(repository)}/revisions/{algorithm}" for algorithm in ALGORITHMS}
        versions = [await self._storage.version(folder) for folder in folders.values()]
        digests = [
            digest
            for algorithm, folder in folders.items()
            for name in await self._storage.names(folder)
            if (digest := _parse(f"{algorithm}:{name}")) is not None
        ]
        # Where folders have no version, the digests are one: what they name never changes.
        return (frozenset(digests) if None in versions else tuple(versions)), digests

    async def repositories(self) -> Sequence[str]:
        return [name for name in await self._storage.walk("repositories", until="_manifests") if is_repository(name)]


def _manifests(repository: str) -> str:
    return f"repositories/{repository}/_manifests"


def _tags(repository: str) -> str:
    return f"repositories/{repository}/_manifests/tags"


def _tag_current(repository: str, tag: str) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/current/link"


def _tag_index(repository: str, tag: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/tags/{tag}/index/{digest.algorithm}/{digest.hex}/link"


def _revision(repository: str, digest: Digest) -> str:
    return f"repositories/{repository}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link"


def _layer(repository: str, digest: Digest) -> str:
    return f"repositories/{repository}/_layers/{digest.algorithm}/{digest.hex}/link"


def _folder(link: str) -> str:
    return link.removesuffix("/link")


def _target(link: bytes | None) -> Digest | None:
    """Where a link points. A link that holds no digest (a damaged disk) is as good as none."""
    return None if link is None else _parse(link.decode("ascii", "replace").strip())


def _parse(digest: str) -> Digest | None:
    try:
        return Digest.parse(digest)
    except InvalidDigest:
        return None
