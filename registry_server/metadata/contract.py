"""What the registry asks of a metadata driver. Whatever returns without raising is durable."""

from collections.abc import Sequence
from typing import Protocol

from registry_server.reference import Digest


class Metadata(Protocol):
    """One driver. Digests are as clients gave them; a link answers with the canonical digest of the content."""

    async def link_blob(self, repository: str, digest: Digest, *, aliases: Sequence[Digest] = ()) -> None:
        """Say that a repository holds a blob, under its canonical digest and under others."""

    async def linked_blob(self, repository: str, digest: Digest) -> Digest | None:
        """The canonical digest of a blob that a repository holds."""

    async def unlink_blob(self, repository: str, digest: Digest) -> bool:
        """False where there was no such link."""

    async def candidates(self) -> Sequence[str]:
        """All repositories that may hold a blob: also those to which no manifest was pushed yet."""

    async def holder(self, digest: Digest, *, among: Sequence[str]) -> str | None:
        """A repository among those given that holds a blob."""

    async def link_manifest(self, repository: str, digest: Digest, content: Digest, *, tags: Sequence[str]) -> None:
        """Say that a repository holds a manifest, kept under the canonical digest `content`, and point tags to it."""

    async def claim_tag(self, repository: str, tag: str, digest: Digest) -> Digest:
        """Point a tag to a manifest unless it points to one already; returns where it points then.

        Of several who claim it at once, also by way of other processes, one succeeds.
        """

    async def linked_manifest(self, repository: str, digest: Digest) -> Digest | None:
        """The canonical digest of a manifest that a repository holds."""

    async def unlink_manifest(self, repository: str, digest: Digest) -> bool:
        """Take a manifest and every tag that points to it from a repository; False where there was no such manifest."""

    async def tagged(self, repository: str, tag: str) -> Digest | None:
        """The digest a tag points to."""

    async def untag(self, repository: str, tag: str) -> bool:
        """False where there was no such tag."""

    async def tags(self, repository: str) -> Sequence[str] | None:
        """All tags in ASCII order; None for a repository that does not exist."""

    async def manifests(self, repository: str) -> tuple[object | None, list[Digest]]:
        """The digests of all manifests, with a token that changes with them, or None where none can be told."""

    async def repositories(self) -> Sequence[str]:
        """All repositories in ASCII order."""
