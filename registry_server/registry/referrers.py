"""Referrers: which manifests of a repository name a given one as their subject.

They are derived from the manifests themselves, so no index can disagree with them; what was derived is kept as long as
the repository's manifests stay the same.
"""

from collections import OrderedDict
from typing import Any, Final

from registry_server.metadata.contract import Metadata
from registry_server.reference import Digest
from registry_server.registry.errors import ManifestUnknown
from registry_server.registry.manifests import Manifests

KEPT_REPOSITORIES: Final = 256

_Index = dict[Digest, list[dict[str, Any]]]


class Referrers:
    """Descriptors by subject."""

    def __init__(self, manifests: Manifests, metadata: Metadata) -> None:
        self._manifests = manifests
        self._metadata = metadata
        self._kept: OrderedDict[str, tuple[object, _Index]] = OrderedDict()

    async def of(self, repository: str, subject: Digest, *, artifact_type: str | None = None) -> list[dict[str, Any]]:
        """The descriptors that refer to `subject`; none for a repository or subject that does not exist."""
        descriptors = (await self._index(repository)).get(subject, [])
        if artifact_type is None:
            return descriptors
        return [descriptor for descriptor in descriptors if descriptor.get("artifactType") == artifact_type]

    async def _index(self, repository: str) -> _Index:
        version, digests = await self._metadata.manifests(repository)
        kept = self._kept.get(repository)
        if kept is not None and kept[0] == version:
            self._kept.move_to_end(repository)
            return kept[1]
        index = await self._derive(repository, digests)
        if version is not None:
            self._kept[repository] = (version, index)
            if len(self._kept) > KEPT_REPOSITORIES:
                self._kept.popitem(last=False)
        return index

    async def _derive(self, repository: str, digests: list[Digest]) -> _Index:
        index: _Index = {}
        for digest in sorted(digests):
            try:
                manifest = await self._manifests.by_digest(repository, digest)
            except ManifestUnknown:
                continue
            if manifest.subject is not None:
                index.setdefault(manifest.subject, []).append(manifest.descriptor(digest))
        return index
