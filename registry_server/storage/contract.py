"""What the registry asks of a storage driver.

Paths below are relative to distribution's root, `<rootdirectory>/docker/registry/v2`, and contain only what
`registry_server.reference` let through. Whatever returns without raising is durable: it survives `kill -9` and a
power failure, unless its docstring says otherwise.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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


class Storage(Protocol):
    """One driver."""

    async def blob(self, digest: Digest) -> StoredBlob | None:
        """Find the content of a canonical digest."""

    async def read_blob(self, digest: Digest) -> bytes | None:
        """The whole content of a small blob: a manifest."""

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

    async def check(self) -> None:
        """Find out whether content can be written and read. Raises StorageError."""
