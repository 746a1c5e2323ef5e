"""Referrers: which manifests of a repository name a given one as their subject.

They are derived from the manifests themselves, so no index can disagree with them; what was derived is kept as long as
the repository's manifests stay the same.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from registry_server.metadata.contract import Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.registry.errors import ManifestUnknown
from registry_server.registry.manifest import Manifest
from registry_server.registry.manifests import Manifests

KEPT_REPOSITORIES: Final = 256

_Index = dict[Digest, list[dict[str, Any]]]
_Entries = dict[Digest, tuple[Digest, dict[str, Any]] | None]


@dataclass(frozen=True, slots=True)
class _Derived:
    """The referrers of a repository as they were when its manifests had this version."""

    version: object
    index: _Index
    entries: _Entries
    """Of each manifest its subject and its descriptor, None without a subject."""
    unreadable: tuple[Digest, ...]
    """Manifests that a crash or a damaged disk left without content. Pushed again, they don't change the version."""


class Referrers:
    """Descriptors by subject."""

    def __init__(self, manifests: Manifests, metadata: Metadata) -> None:
        self._manifests = manifests
        self._metadata = metadata
        self._kept: OrderedDict[str, _Derived] = OrderedDict()

    async def of(self, repository: str, subject: Digest, *, artifact_type: str | None = None) -> list[dict[str, Any]]:
        """The descriptors that refer to `subject`; none for a repository or subject that does not exist."""
        descriptors = (await self._index(repository)).get(subject, [])
        if artifact_type is None:
            return descriptors
        return [descriptor for descriptor in descriptors if descriptor.get("artifactType") == artifact_type]

    async def _index(self, repository: str) -> _Index:
        version, digests = await self._metadata.manifests(repository)
        kept = self._kept.get(repository)
        if kept is not None and kept.version == version and not await self._any_readable(repository, kept.unreadable):
            self._kept.move_to_end(repository)
            return kept.index
        derived = await self._derive(repository, version, digests, {} if kept is None else kept.entries)
        if version is not None:
            self._kept[repository] = derived
            if len(self._kept) > KEPT_REPOSITORIES:
                self._kept.popitem(last=False)
        return derived.index

    async def _derive(self, repository: str, version: object, digests: list[Digest], known: _Entries) -> _Derived:
        """Reads the manifests that are not among those known."""
        digests = sorted(digests)
        new = [digest for digest in digests if digest not in known]
        manifests = dict(zip(new, await in_parallel(lambda digest: self._read(repository, digest), new), strict=True))
        unreadable = tuple(digest for digest, manifest in manifests.items() if manifest is None)
        known = known | {digest: _entry(digest, manifest) for digest, manifest in manifests.items() if manifest}
        entries = {digest: known[digest] for digest in digests if digest in known}
        index: _Index = {}
        for subject, descriptor in filter(None, entries.values()):
            index.setdefault(subject, []).append(descriptor)
        return _Derived(version, index, entries, unreadable)

    async def _any_readable(self, repository: str, digests: tuple[Digest, ...]) -> bool:
        for digest in digests:
            if await self._read(repository, digest) is not None:
                return True
        return False

    async def _read(self, repository: str, digest: Digest) -> Manifest | None:
        try:
            return await self._manifests.by_digest(repository, digest)
        except ManifestUnknown:
            return None


def _entry(digest: Digest, manifest: Manifest) -> tuple[Digest, dict[str, Any]] | None:
    return None if manifest.subject is None else (manifest.subject, manifest.descriptor(digest))
