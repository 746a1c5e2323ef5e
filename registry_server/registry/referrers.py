"""Referrers: which manifests of a repository name a given one as their subject."""

from typing import Any

from registry_server.metadata.contract import Descriptor, Metadata
from registry_server.reference import Digest


class Referrers:
    """Descriptors by subject."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def of(self, repository: str, subject: Digest, *, artifact_type: str | None = None) -> list[dict[str, Any]]:
        """The descriptors that refer to `subject`; none for a repository or subject that does not exist."""
        return [
            _document(descriptor)
            for descriptor in await self._metadata.referrers(repository, subject)
            if artifact_type is None or descriptor.artifact_type == artifact_type
        ]


def _document(descriptor: Descriptor) -> dict[str, Any]:
    document: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.artifact_type is not None:
        document["artifactType"] = descriptor.artifact_type
    if descriptor.annotations:
        document["annotations"] = descriptor.annotations
    return document
