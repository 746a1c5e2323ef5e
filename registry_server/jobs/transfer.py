"""Metadata from one driver to another, and what differs between two.

Each repository is compared, and what the target lacks is linked there: a transfer that was cut off goes on where it
stopped, and one that is repeated does nothing. Content isn't touched, for both drivers are over the same storage.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from registry_server.metadata.contract import Holdings, LinkedBlob, LinkedManifest, Metadata
from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import CANONICAL, Digest
from registry_server.registry.manifest import understand
from registry_server.storage.contract import Storage
from registry_server.versions import natural

T = TypeVar("T")

CHUNK: Final = 500
"""Links made at once: what is done again after a crash, and what is held in memory of manifests' contents."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same on both sides."""

    repository: str
    name: str
    """`blob sha256:…`, `manifest sha256:…` or `tag v1`."""
    source: str | None
    """The digest it leads to on one side; None where it isn't there."""
    target: str | None


@dataclass(slots=True)
class Done:
    """What became of a repository."""

    repository: str
    blobs: int = 0
    manifests: int = 0
    tags: int = 0
    removed: int = 0
    problems: list[str] = field(default_factory=list)
    """What could not be taken over, and why."""


async def differences(source: Metadata, target: Metadata) -> AsyncGenerator[tuple[str, Sequence[Difference]]]:
    """Each repository of either side, with what differs in it."""
    seen: set[str] = set()
    for side in (source, target):
        async for name in side.everything():
            if name not in seen:
                seen.add(name)
                yield name, list(compare(name, await source.holdings(name), await target.holdings(name)))


def compare(repository: str, source: Holdings, target: Holdings) -> Iterator[Difference]:
    """What differs in a repository."""
    kinds: tuple[tuple[str, Mapping[Any, Digest], Mapping[Any, Digest]], ...] = (
        ("blob", source.blobs, target.blobs),
        ("manifest", source.manifests, target.manifests),
        ("tag", source.tags, target.tags),
    )
    for kind, ours, theirs in kinds:
        for name in sorted({*ours, *theirs}, key=str):
            one, other = ours.get(name), theirs.get(name)
            if one != other:
                sides = [None if digest is None else str(digest) for digest in (one, other)]
                yield Difference(repository, f"{kind} {name}", *sides)


async def not_imported(storage: Storage, metadata: Metadata) -> bool:
    """Whether a database knows no repository although there are link files of some: it shows and refers to nothing."""
    if isinstance(metadata, LayoutMetadata) or not await _is_empty(metadata):
        return False
    return not await _is_empty(LayoutMetadata(storage, understand))


async def _is_empty(metadata: Metadata) -> bool:
    async with aclosing(metadata.everything()) as names:
        async for _ in names:
            return False
    return True


class Source(Protocol):
    """Where a transfer comes from: a metadata driver, or what a backup has kept of one."""

    def everything(self) -> AsyncGenerator[str]:
        """All repositories that hold anything."""

    async def holdings(self, repository: str) -> Holdings:
        """All that a repository holds."""


async def transfer(storage: Storage, source: Source, target: Metadata, *, prune: bool) -> AsyncGenerator[Done]:
    """Make the target hold what the source holds, a repository at a time; `prune` takes away what it holds beyond."""
    seen: set[str] = set()
    async for name in source.everything():
        seen.add(name)
        yield await _Repository(storage, target, name, await source.holdings(name)).transfer(prune=prune)
    if prune:
        async for name in target.everything():
            if name not in seen:
                yield await _Repository(storage, target, name, Holdings()).transfer(prune=True)


class _Repository:
    """One repository on its way."""

    def __init__(self, storage: Storage, target: Metadata, name: str, wanted: Holdings) -> None:
        self._storage = storage
        self._target = target
        self._name = name
        self._wanted = wanted
        self._done = Done(name)

    async def transfer(self, *, prune: bool) -> Done:
        held = await self._target.holdings(self._name)
        await self._link_blobs(held)
        linked = await self._link_manifests(held)
        await self._link_tags(held, linked)
        if prune:
            await self._prune(held)
        return self._done

    async def _link_blobs(self, held: Holdings) -> None:
        names: dict[Digest, list[Digest]] = {}
        for name, content in self._wanted.blobs.items():
            if held.blobs.get(name) != content:
                names.setdefault(content, []).append(name)
        for chunk in _chunks(sorted(names.items())):
            blobs: list[LinkedBlob] = []
            for content, found in chunk:
                stored = await self._storage.blob(content)
                if stored is None:
                    self._done.problems.append(f"blob {content}: its content is not in storage")
                else:
                    aliases = [name for name in found if name.algorithm != CANONICAL]
                    blobs.append(LinkedBlob(content, stored.size, aliases))
            if blobs:
                await self._target.link_blobs(self._name, blobs)
            self._done.blobs += len(blobs)

    async def _link_manifests(self, held: Holdings) -> set[Digest]:
        """What an index lists comes before it, so that it finds it."""
        missing = [
            digest for digest, content in self._wanted.manifests.items() if held.manifests.get(digest) != content
        ]
        linked: set[Digest] = set()
        indexes: list[Digest] = []
        for chunk in _chunks(sorted(missing)):
            manifests = [manifest for digest in chunk if (manifest := await self._read(digest)) is not None]
            indexes += [manifest.digest for manifest in manifests if manifest.manifests]
            linked |= await self._link([manifest for manifest in manifests if not manifest.manifests])
        for chunk in _chunks(indexes):
            manifests = [manifest for digest in chunk if (manifest := await self._read(digest)) is not None]
            linked |= await self._link(manifests)
        return linked

    async def _link(self, manifests: Sequence[LinkedManifest]) -> set[Digest]:
        if manifests:
            await self._target.link_manifests(self._name, manifests, tags={})
            self._done.manifests += len(manifests)
        return {manifest.digest for manifest in manifests}

    async def _read(self, digest: Digest) -> LinkedManifest | None:
        content = self._wanted.manifests[digest]
        text = await self._storage.read_blob(content)
        if text is None or Digest.of(text) != content:
            what = "is not in storage" if text is None else "is damaged in storage"
            self._done.problems.append(f"manifest {digest}: its content {what}")
            return None
        return understand(digest, text)

    async def _link_tags(self, held: Holdings, linked: set[Digest]) -> None:
        tags = {
            tag: digest
            for tag, digest in self._wanted.tags.items()
            if held.tags.get(tag) != digest and (digest in linked or digest in held.manifests)
        }
        # In the order in which people count, as the later ones count as the newer ones from now on.
        for chunk in _chunks(sorted(tags.items(), key=lambda one: natural(one[0]))):
            await self._target.link_manifests(self._name, [], tags=dict(chunk))
            self._done.tags += len(chunk)

    async def _prune(self, held: Holdings) -> None:
        for tag in held.tags.keys() - self._wanted.tags.keys():
            self._done.removed += await self._target.untag(self._name, tag)
        for manifest in held.manifests.keys() - self._wanted.manifests.keys():
            self._done.removed += await self._target.unlink_manifest(self._name, manifest)
        for blob in held.blobs.keys() - self._wanted.blobs.keys():
            self._done.removed += await self._target.unlink_blob(self._name, blob)


def _chunks(values: Sequence[T]) -> Iterator[list[T]]:
    left = iter(values)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
