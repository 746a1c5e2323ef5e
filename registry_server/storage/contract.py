"""What the registry asks of a storage driver.

Paths below are relative to distribution's root, `<rootdirectory>/docker/registry/v2`, and contain only what
`registry_server.reference` let through. Whatever returns without raising is durable: it survives `kill -9` and a
power failure, unless its docstring says otherwise.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from registry_server.reference import Digest


class StorageError(Exception):
    """The storage can't do its work now; the message says what happened, for a log."""


class StorageFull(StorageError):
    """There is no space left."""


class StorageRefused(StorageError):
    """The storage does not let us do it, now or later: a person has to change something."""


class UploadBusy(Exception):
    """Another request is writing to the same upload."""


class UploadGone(Exception):
    """Another request has finished or cancelled the upload since it was opened."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Content as it lies in storage, complete and verified."""

    digest: Digest
    """The canonical one."""
    size: int
    """Bytes."""
    path: str | None = None
    """The file that holds it, absolute; None where content is not in files, see `Storage.blob_url` and `read_range`."""
    touched: float = 0.0
    """Seconds since 1970 by the storage's clock: when it was written or touched, or else put into the trash."""


class Upload(Protocol):
    """Content on its way in. It lives in storage alone, so any process may go on with it; `lock` before it changes."""

    @property
    def offset(self) -> int:
        """Bytes received so far."""

    def lock(self) -> None:
        """Keep other requests out until `close`. Raises UploadBusy, UploadGone.

        Where that can't be done across processes, `append` raises them of those but the first that come to their end.
        """

    async def append(self, body: AsyncIterator[bytes]) -> int:
        """Add what `body` yields; returns the bytes added. What arrived before `body` broke is kept, not yet durable.

        Raises StorageError, and perhaps UploadBusy and UploadGone.
        """

    async def digest(self, algorithm: str) -> Digest:
        """The digest of all that was received."""

    async def commit(self) -> None:
        """Make the content a blob under its canonical digest, and end the upload."""

    async def cancel(self) -> None:
        """Drop what was received."""

    def close(self) -> None:
        """Let go of the upload; another request may take it up."""


class Aside(Protocol):
    """Small files of our own beside distribution's layout, in `.regatta`; paths are relative to that."""

    async def read(self, path: str) -> bytes | None:
        """None where there is no such file."""

    async def write(self, path: str, content: bytes) -> None:
        """Write a file, whole or not at all."""

    async def create(self, path: str, content: bytes) -> bool:
        """Write a file where there is none; False where there is one. Of several who try, one does."""

    async def remove(self, path: str) -> None:
        """Remove a file, if there is one."""

    async def written(self, folder: str) -> Mapping[str, float]:
        """The names of a folder's files, and when each was written: seconds since 1970 by the storage's clock."""


class Trash(Protocol):
    """Contents that nothing refers to, on their way out: `Storage.blob` takes back what somebody asks for.

    A content is touched by whoever is about to rely on it, before they look whether it is there. It is moved here
    first and looked at then, so one of the two sees the other, whatever the order.
    """

    async def discard(self, digest: Digest, *, untouched_since: float) -> bool:
        """Move a content here unless it was written or touched since, also if only in this moment; whether it was."""

    async def restore(self, digest: Digest) -> bool:
        """Put a content back in its place, touched; False where there is none here."""

    async def purge(self, digest: Digest) -> None:
        """Remove a content from here for good."""

    def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        """All that is here; `touched` is when it came."""


class Storage(Protocol):
    """One driver."""

    @property
    def aside(self) -> Aside:
        """Where we keep what the layout has no place for."""

    @property
    def trash(self) -> Trash:
        """Where contents are before they are gone."""

    @property
    def quarantine(self) -> Trash:
        """Where contents are that are not what their digests say; nobody gets them back."""

    async def blob(self, digest: Digest) -> StoredBlob | None:
        """Find the content of a canonical digest, in the trash as well: it is taken back then."""

    async def read_blob(self, digest: Digest) -> bytes | None:
        """The whole content of a small blob: a manifest."""

    async def in_place(self, digest: Digest) -> StoredBlob | None:
        """A content in its place, with whatever touched it; nothing is taken back from the trash."""

    async def touch(self, digest: Digest) -> None:
        """Keep a content out of the trash for a while. It is to be looked for after that, as it may not be there."""

    async def forget_touches(self, before: float) -> None:
        """Drop what is kept of touches that are older, where they are kept beside the content."""

    def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        """All contents in their places, some at a time."""

    async def blob_url(self, blob: StoredBlob) -> str | None:
        """Where clients may read a blob for some minutes without asking us; None where they shall get it from us."""

    def read_range(self, blob: StoredBlob, start: int, end: int) -> AsyncGenerator[bytes]:
        """Part of a blob that lies in no file, `end` exclusive. Raises StorageError on the way."""

    async def write_blob(self, digest: Digest, content: bytes) -> None:
        """Store a small blob whose digest the caller has computed."""

    async def start_upload(self, repository: str) -> str:
        """Begin an upload; returns its id. Not durable: a client begins anew when it is gone."""

    async def open_upload(self, repository: str, upload_id: str) -> Upload | None:
        """Take up an upload. The caller closes, commits or cancels it."""

    async def drop_upload(self, repository: str, upload_id: str) -> None:
        """Remove what a crash left of an upload that can't be taken up."""

    async def stale_uploads(self, before: datetime) -> list[tuple[str, str]]:
        """Repository and id of the uploads that nothing was added to since `before`."""

    async def read(self, path: str) -> bytes | None:
        """A small file's content, None where there is no such file."""

    async def write(self, *files: tuple[str, bytes]) -> None:
        """Write small files, each atomically, in the order given: none is seen without those before it."""

    async def create(self, path: str, content: bytes) -> bool:
        """Write a small file where there is none; False where there is one. Of several who try, one does."""

    async def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""

    async def modified(self, path: str) -> float | None:
        """When a small file was written: seconds since 1970 by the storage's clock; None where there is none."""

    async def first_existing(self, paths: Sequence[str]) -> int | None:
        """The index of the first of many paths at which there is something."""

    async def version(self, path: str) -> object | None:
        """A token that changes whenever an entry of this folder comes or goes; None if that can't be told yet."""

    async def names(self, path: str) -> list[str]:
        """The names in a folder, in no order; none where there is no folder."""

    async def folders(self, path: str, *, having: str) -> tuple[list[str], bool]:
        """The names of the folders in `path` that have the file `having`, and whether those are all that is in it."""

    async def walk(self, path: str, *, until: str) -> list[str]:
        """The folders below `path` that have an entry named `until`, relative to it and sorted.

        Folders whose names begin with `_` are not entered.
        """

    async def remove(self, path: str) -> bool:
        """Remove a folder with all that is in it; False where there was none."""

    async def prune(self, path: str) -> None:
        """Remove a folder if there is no file below it, and those above it that have nothing else in them."""

    async def check(self) -> None:
        """Find out whether content can be written and read. Raises StorageError."""
