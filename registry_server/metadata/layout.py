"""Metadata as distribution keeps it: link files beside the blobs, each holding a digest.

Paths and the order of writes are those of distribution's `registry/storage/paths.go` and `tagstore.go`, so that either
server can take over a volume from the other.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from registry_server.metadata.contract import Dated, Descriptor, Holdings, LinkedBlob, LinkedManifest, Tagged, Usage
from registry_server.parallel import in_parallel
from registry_server.reference import ALGORITHMS, CANONICAL, Digest, InvalidDigest, is_repository, is_tag
from registry_server.storage.contract import Storage

KEPT_TAG_LISTS: Final = 1024
"""Repositories whose sorted tags a process keeps while their folder does not change."""
KEPT_REFERRERS: Final = 256
"""Repositories whose referrers a process keeps while their folder of manifests does not change."""

KEPT_USAGES: Final = 1024
"""Repositories of which a process keeps what they take while their folders do not change."""
KEPT_SIZES: Final = 65_536
"""Blobs whose sizes a process keeps, about 16 MB: content never changes."""

Understand = Callable[[Digest, bytes], LinkedManifest]
"""What a manifest's content says, given the digest it is linked by."""


class LayoutMetadata:
    """The metadata contract on link files.

    Referrers are derived from the manifests themselves, so no index can disagree with them; what was derived is kept as
    long as the repository's manifests stay the same.
    """

    def __init__(self, storage: Storage, understand: Understand) -> None:
        self._storage = storage
        self._understand = understand
        self._tag_lists: OrderedDict[str, tuple[object, list[str]]] = OrderedDict()
        self._referrers: OrderedDict[str, _Derived] = OrderedDict()
        self._usages: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._sizes: OrderedDict[Digest, int] = OrderedDict()

    async def link_blobs(self, repository: str, blobs: Sequence[LinkedBlob]) -> None:
        await self._storage.write(
            *(
                (_layer(repository, name), str(blob.content).encode())
                for blob in blobs
                for name in (blob.content, *blob.aliases)
            )
        )

    async def linked_blob(self, repository: str, digest: Digest) -> Digest | None:
        return _target(await self._storage.read(_layer(repository, digest)))

    async def linked_blobs(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        found = await in_parallel(lambda digest: self.linked_blob(repository, digest), digests)
        return {digest: content for digest, content in zip(digests, found, strict=True) if content is not None}

    async def unlink_blob(self, repository: str, digest: Digest) -> bool:
        return await self._storage.remove(_folder(_layer(repository, digest)))

    async def holder(self, digest: Digest, *, visible: Callable[[str], bool]) -> str | None:
        candidates = list(filter(visible, await self._storage.walk("repositories", until="_layers")))
        found = await self._storage.first_existing([_layer(name, digest) for name in candidates])
        return None if found is None else candidates[found]

    async def link_manifests(
        self, repository: str, manifests: Sequence[LinkedManifest], *, tags: Mapping[str, Digest]
    ) -> None:
        writes = [(_revision(repository, one.digest), str(one.content).encode()) for one in manifests]
        for tag, digest in tags.items():
            link = str(digest).encode()
            writes += [(_tag_index(repository, tag, digest), link), (_tag_current(repository, tag), link)]
        await self._storage.write(*writes)

    async def claim_tag(self, repository: str, tag: str, digest: Digest) -> Tagged | None:
        current, link = _tag_current(repository, tag), str(digest).encode()
        await self._storage.write((_tag_index(repository, tag, digest), link))
        if not await self._storage.create(current, link) and await self.tagged(repository, tag) is None:
            await self._storage.write((current, link))  # a link that leads nowhere claims nothing
        return await self.tagged(repository, tag)

    async def linked_manifest(self, repository: str, digest: Digest) -> Digest | None:
        return _target(await self._storage.read(_revision(repository, digest)))

    async def linked_manifests(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        found = await in_parallel(lambda digest: self.linked_manifest(repository, digest), digests)
        return {digest: content for digest, content in zip(digests, found, strict=True) if content is not None}

    async def unlink_manifest(self, repository: str, digest: Digest) -> bool:
        if await self.linked_manifest(repository, digest) is None:
            return False
        tags = await self._tags(repository) or ()
        targets = await in_parallel(lambda tag: self._tagged(repository, tag), tags)
        for tag, target in zip(tags, targets, strict=True):
            if target == digest:
                await self.untag(repository, tag)
        return await self._storage.remove(_folder(_revision(repository, digest)))

    async def tagged(self, repository: str, tag: str) -> Tagged | None:
        digest = await self._tagged(repository, tag)
        content = None if digest is None else await self.linked_manifest(repository, digest)
        return None if digest is None or content is None else Tagged(digest, content)

    async def untag(self, repository: str, tag: str) -> bool:
        return await self._storage.remove(f"{_tags(repository)}/{tag}")

    async def dated_tags(self, repository: str) -> Mapping[str, Dated]:
        tags = await self._tags(repository) or ()
        found = await in_parallel(lambda tag: self._dated(repository, tag), tags)
        return {tag: dated for tag, dated in zip(tags, found, strict=True) if dated is not None}

    async def untag_old(self, repository: str, tag: str, found: Dated) -> bool:
        # A push writes the index first and `current` then. So whoever pushes while `current` goes has left a sign in
        # the index, or writes `current` after that.
        indexed = await self._indexed(repository, tag)
        if await self._dated(repository, tag) != found:
            return False
        current = _tag_current(repository, tag)
        await self._storage.remove(_folder(current))
        for digest in await self._indexed(repository, tag):
            if (await self._storage.modified(_tag_index(repository, tag, digest)) or 0.0) > found.at:
                await self._storage.create(current, str(digest).encode())
                return False
        for digest in indexed:
            await self._storage.remove(_folder(_tag_index(repository, tag, digest)))
        await self._storage.prune(f"{_tags(repository)}/{tag}")
        return True

    async def tags(self, repository: str, *, after: str, limit: int) -> Sequence[str] | None:
        tags = await self._tags(repository)
        if tags is None:
            return None
        start = bisect_right(tags, after)
        return tags[start : start + limit]

    async def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        version, digests = await self._revisions(repository)
        kept = self._referrers.get(repository)
        if kept is not None and kept.version == version and not await self._any_readable(repository, kept.unreadable):
            self._referrers.move_to_end(repository)
            return kept.index.get(subject, ())
        derived = await self._derive(repository, version, digests)
        self._referrers[repository] = derived
        if len(self._referrers) > KEPT_REFERRERS:
            self._referrers.popitem(last=False)
        return derived.index.get(subject, ())

    async def repositories(self, *, after: str, batch: int) -> AsyncGenerator[Sequence[str]]:  # noqa: ARG002 (one walk finds all)
        names = await self._storage.walk("repositories", until="_manifests")
        yield [name for name in names[bisect_right(names, after) :] if is_repository(name)]

    async def everything(self) -> AsyncGenerator[str]:
        for name in filter(is_repository, await self._holders()):
            yield name

    async def hidden(self) -> AsyncGenerator[str]:
        for name in await self._holders():
            if not is_repository(name):
                yield name

    async def _holders(self) -> list[str]:
        names = set(await self._storage.walk("repositories", until="_layers"))
        names.update(await self._storage.walk("repositories", until="_manifests"))
        return sorted(names)

    async def holdings(self, repository: str) -> Holdings:
        # In this order, as what is pushed meanwhile comes the other way round.
        tags = await self._tags(repository) or ()
        targets = await in_parallel(lambda tag: self.tagged(repository, tag), tags)
        _, revisions = await self._revisions(repository)
        manifests = await self.linked_manifests(repository, revisions)
        blobs = await self.linked_blobs(repository, await self._digests(f"repositories/{repository}/_layers"))
        return Holdings(
            blobs=blobs,
            manifests=manifests,
            tags={tag: target.digest for tag, target in zip(tags, targets, strict=True) if target is not None},
        )

    async def references(self, repository: str) -> Mapping[Digest, LinkedManifest | None]:
        _, digests = await self._revisions(repository)
        read = await in_parallel(lambda digest: self._read(repository, digest), digests)
        found = dict(zip(digests, read, strict=True))
        for digest, manifest in zip(digests, read, strict=True):
            # Deleted meanwhile, or by half by a server that was killed.
            if manifest is None and await self._storage.read(_revision(repository, digest)) is None:
                del found[digest]
        return found

    async def release_manifest(self, repository: str, digest: Digest) -> bool:
        return await self._storage.remove(_folder(_revision(repository, digest)))

    async def forget(self, contents: Sequence[Digest]) -> None:
        """Only their sizes are kept, which don't change."""

    async def usage(self, repository: str) -> Usage:
        folders = [f"repositories/{repository}/_layers", f"{_manifests(repository)}/revisions"]
        paths = [f"{folder}/{algorithm}" for folder in folders for algorithm in ALGORITHMS]
        version = tuple([await self._storage.version(path) for path in paths])
        kept = self._usages.get(repository)
        if kept is None or kept[0] != version or None in version:
            contents = await self._contents(repository)
            kept = version, sum(await in_parallel(self._size, list(contents)))
            self._usages[repository] = kept
        self._usages.move_to_end(repository)
        if len(self._usages) > KEPT_USAGES:
            self._usages.popitem(last=False)
        return Usage(kept[1], len(await self._tags(repository) or ()))

    async def check(self) -> None:
        """Link files are the storage's, which has a check of its own."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def _tagged(self, repository: str, tag: str) -> Digest | None:
        return _target(await self._storage.read(_tag_current(repository, tag)))

    async def _dated(self, repository: str, tag: str) -> Dated | None:
        at = await self._storage.modified(_tag_current(repository, tag))
        target = await self.tagged(repository, tag)
        return None if at is None or target is None else Dated(target.digest, at)

    async def _indexed(self, repository: str, tag: str) -> list[Digest]:
        """What a tag has pointed to, and is about to."""
        return await self._digests(f"{_tags(repository)}/{tag}/index")

    async def _tags(self, repository: str) -> list[str] | None:
        """All tags in ASCII order; None for a repository that does not exist."""
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

    async def _revisions(self, repository: str) -> tuple[object, list[Digest]]:
        """The digests of all manifests, with a token that changes with them."""
        folder = f"{_manifests(repository)}/revisions"
        versions = [await self._storage.version(f"{folder}/{algorithm}") for algorithm in ALGORITHMS]
        digests = await self._digests(folder)
        # Where folders have no version, the digests are one: what they name never changes.
        return (frozenset(digests) if None in versions else tuple(versions)), digests

    async def _digests(self, folder: str) -> list[Digest]:
        return [
            digest
            for algorithm in ALGORITHMS
            for name in await self._storage.names(f"{folder}/{algorithm}")
            if (digest := _parse(f"{algorithm}:{name}")) is not None
        ]

    async def _contents(self, repository: str) -> set[Digest]:
        """The canonical digests of all that a repository holds. Only links by another digest must be read for them."""
        layers = await self._digests(f"repositories/{repository}/_layers")
        _, manifests = await self._revisions(repository)
        others = [[one for one in digests if one.algorithm != CANONICAL] for digests in (layers, manifests)]
        return {
            *(digest for digest in (*layers, *manifests) if digest.algorithm == CANONICAL),
            *(await self.linked_blobs(repository, others[0])).values(),
            *(await self.linked_manifests(repository, others[1])).values(),
        }

    async def _size(self, content: Digest) -> int:
        """Bytes in storage; none of what a damaged disk has lost."""
        if (kept := self._sizes.get(content)) is not None:
            return kept
        blob = await self._storage.blob(content)
        if blob is None:
            return 0
        self._sizes[content] = blob.size
        if len(self._sizes) > KEPT_SIZES:
            self._sizes.popitem(last=False)
        return blob.size

    async def _derive(self, repository: str, version: object, digests: list[Digest]) -> "_Derived":
        """What manifests say never changes, so only those are read that were not there before."""
        before = self._referrers.get(repository)
        said = {} if before is None else before.said
        new = [digest for digest in digests if digest not in said]
        manifests = dict(zip(new, await in_parallel(lambda digest: self._read(repository, digest), new), strict=True))
        said = said | {digest: _said(manifest) for digest, manifest in manifests.items() if manifest is not None}
        said = {digest: said[digest] for digest in sorted(digests) if digest in said}
        index: dict[Digest, list[Descriptor]] = {}
        for subject, descriptor in filter(None, said.values()):
            index.setdefault(subject, []).append(descriptor)
        unreadable = tuple(digest for digest, manifest in manifests.items() if manifest is None)
        return _Derived(version, said, index, unreadable)

    async def _any_readable(self, repository: str, digests: tuple[Digest, ...]) -> bool:
        for digest in digests:
            if await self._read(repository, digest) is not None:
                return True
        return False

    async def _read(self, repository: str, digest: Digest) -> LinkedManifest | None:
        content = await self.linked_manifest(repository, digest)
        text = None if content is None else await self._storage.read_blob(content)
        return None if text is None or Digest.of(text) != content else self._understand(digest, text)


_Said = tuple[Digest, Descriptor] | None
"""A manifest's subject, and how it is shown in the list of its referrers; None for one without a subject."""


@dataclass(frozen=True, slots=True)
class _Derived:
    """The referrers of a repository as they were when its manifests had this version."""

    version: object
    said: dict[Digest, _Said]
    index: dict[Digest, list[Descriptor]]
    unreadable: tuple[Digest, ...]
    """Manifests that a crash or a damaged disk left without content. Pushed again, they don't change the version."""


def _said(manifest: LinkedManifest) -> _Said:
    return None if manifest.subject is None else (manifest.subject, manifest.descriptor)


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
