"""Referrers: which manifests of a repository name a given one as their subject.

They are derived from the manifests themselves, so no index can disagree with them; what was derived is kept as long as
the repository's manifests stay the same.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from registry_server.metadata.contract import Metadata
from registry_server.reference import Digest
from registry_server.registry.errors import ManifestUnknown
from registry_server.registry.manifest import Manifest
from registry_server.registry.manifests import Manifests

KEPT_REPOSITORIES: Final = 256

_Index = dict[Digest, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Derived:
    """The referrers of a repository as they were when its manifests had this version."""

    version: object
    index: _Index
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
        derived = await self._derive(repository, version, digests)
        if version is not None:
            self._kept[repository] = derived
            if len(self._kept) > KEPT_REPOSITORIES:
                self._kept.popitem(last=False)
        return derived.index

    async def _derive(self, repository: str, version: object, digests: list[Digest]) -> _Derived:
        index: _Index = {}
        unreadable: list[Digest] = []
        for digest in sorted(digests):
            manifest = await self._read(repository, digest)
            if manifest is None:
                unreadable.append(digest)
            elif manifest.subject is not None:
                index.setdefault(manifest.subject, []).append(manifest.descriptor(digest))
        return _Derived(version, index, tuple(unreadable))

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
