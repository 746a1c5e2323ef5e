"""What the registry asks of a metadata driver.

Whatever returns without raising is durable. Every method may raise StorageError: where a driver keeps its metadata can
be full or away, as the place of the content can.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from registry_server.reference import Digest


@dataclass(frozen=True, slots=True)
class LinkedBlob:
    """A blob that a repository holds."""

    content: Digest
    """Its canonical digest, under which it lies in storage."""
    size: int
    """Bytes."""
    aliases: Sequence[Digest] = ()
    """Further digests that it shall be found by."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """How a manifest is shown in a list of manifests."""

    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkedManifest:
    """A manifest that a repository holds, and what it refers to."""

    descriptor: Descriptor
    """Its digest there is the one it was pushed by."""
    content: Digest
    """Its canonical digest, under which it lies in storage."""
    blobs: Sequence[Digest] = ()
    manifests: Sequence[Digest] = ()
    subject: Digest | None = None

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a tag points to."""

    digest: Digest
    content: Digest
    """The canonical digest of the manifest."""


@dataclass(frozen=True, slots=True)
class Dated:
    """A tag as it was pointed to a manifest."""

    digest: Digest
    at: float
    """When: seconds since 1970 by the clock of the driver."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that a repository holds; each digest with the canonical one of its content."""

    blobs: Mapping[Digest, Digest] = field(default_factory=dict)
    manifests: Mapping[Digest, Digest] = field(default_factory=dict)
    tags: Mapping[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What repositories take."""

    bytes: int = 0
    """Of the distinct blobs and manifests that a repository holds; what several hold counts in each."""
    tags: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.bytes + other.bytes, self.tags + other.tags)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.bytes - other.bytes, self.tags - other.tags)


class Metadata(Protocol):
    """One driver. Digests are as clients gave them; a link answers with the canonical digest of the content."""

    async def link_blobs(self, repository: str, blobs: Sequence[LinkedBlob]) -> None:
        """Say that a repository holds blobs, each under its canonical digest and its aliases."""

    async def linked_blob(self, repository: str, digest: Digest) -> Digest | None:
        """The canonical digest of a blob that a repository holds."""

    async def linked_blobs(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        """The canonical digests of those of many blobs that a repository holds."""

    async def unlink_blob(self, repository: str, digest: Digest) -> bool:
        """False where there was no such link."""

    async def holder(self, digest: Digest, *, visible: Callable[[str], bool]) -> str | None:
        """A repository that holds a blob, among those that are visible."""

    async def link_manifests(
        self, repository: str, manifests: Sequence[LinkedManifest], *, tags: Mapping[str, Digest]
    ) -> None:
        """Say that a repository holds manifests, and point tags to these or to others that it holds."""

    async def claim_tag(self, repository: str, tag: str, digest: Digest) -> Tagged | None:
        """Point a tag to a manifest unless it points to one already; returns where it points then.

        Of several who claim it at once, also by way of other processes, one succeeds.
        """

    async def linked_manifest(self, repository: str, digest: Digest) -> Digest | None:
        """The canonical digest of a manifest that a repository holds."""

    async def linked_manifests(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        """The canonical digests of those of many manifests that a repository holds."""

    async def unlink_manifest(self, repository: str, digest: Digest) -> bool:
        """Take a manifest and every tag that points to it from a repository; False where there was no such manifest."""

    async def tagged(self, repository: str, tag: str) -> Tagged | None:
        """The manifest a tag points to; None also where the repository doesn't hold it."""

    async def untag(self, repository: str, tag: str) -> bool:
        """False where there was no such tag."""

    async def dated_tags(self, repository: str) -> Mapping[str, Dated]:
        """All tags that lead to a manifest which the repository holds."""

    async def untag_old(self, repository: str, tag: str, found: Dated) -> bool:
        """Take away a tag that is still as it was found, a minute ago at the least; False where it has moved.

        One that is pushed in this very moment stays, or is there again at once.
        """

    async def tags(self, repository: str, *, after: str, limit: int) -> Sequence[str] | None:
        """At most `limit` tags in ASCII order that come after `after`; None for a repository that does not exist."""

    async def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        """The manifests of a repository that name `subject` as theirs, in the order of their digests."""

    def repositories(self, *, after: str, batch: int) -> AsyncGenerator[Sequence[str]]:
        """All repositories in ASCII order that come after `after`, in batches of at least `batch` but for the last."""

    def everything(self) -> AsyncGenerator[str]:
        """All repositories that hold anything, also those to which no manifest was pushed, in ASCII order."""

    def hidden(self) -> AsyncGenerator[str]:
        """Repositories that hold something under names nobody can ask for here, as another server may have let in."""

    async def holdings(self, repository: str) -> Holdings:
        """All that a repository holds.

        While others push there is what a tag leads to and what a manifest refers to for each that is there; what is
        deleted meanwhile may be missing.
        """

    async def references(self, repository: str) -> Mapping[Digest, LinkedManifest | None]:
        """What each manifest of a repository refers to; None for one whose content is lost or damaged.

        A driver that keeps references alone may name blobs by their canonical digests, and what was not there when the
        manifest was pushed among both `blobs` and `manifests`.
        """

    async def release_manifest(self, repository: str, digest: Digest) -> bool:
        """Take a manifest from a repository, but no tag; False where there is none, or something points to it still.

        Where that can't be told in the same moment the caller has to look again afterwards.
        """

    async def forget(self, contents: Sequence[Digest]) -> None:
        """Drop what is kept of contents that are no longer in storage, but for those that something refers to."""

    async def usage(self, repository: str) -> Usage:
        """What a repository takes, as of now."""

    async def check(self) -> None:
        """Find out whether this driver can do its work."""

    async def close(self) -> None:
        """Let go of connections; nothing else may be asked after."""
