"""distribution's layout on a POSIX file system.

Reads of small files run on the event loop: they come from the page cache, and a thread would cost several times that.
Writes, syncs and hashing run in threads.
"""

import asyncio
import hashlib
import math
import os
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Final

from registry_server.reference import CANONICAL, Digest
from registry_server.storage import durable
from registry_server.storage.contract import StorageError, StoredBlob, UploadBusy, UploadGone
from registry_server.storage.filesystem.aside import FilesystemAside, read_file
from registry_server.storage.filesystem.threads import Threads
from registry_server.storage.filesystem.trash import FilesystemTrash, blob_file, stored
from registry_server.storage.observing import Observer, unobserved

COALESCE: Final = 1 << 20
"""Bytes gathered before a write: fewer, larger writes, and hashing that lets go of the interpreter for long."""
MAX_GATHERED: Final = 512
"""Pieces gathered before a write, however small (a client chooses their size; the kernel takes 1,024)."""
SETTLED: Final = 2.0
"""Seconds after which a folder's modification time is sure to change with its next entry: its clock is coarse."""
KEPT_HASHERS: Final = 4096
"""Uploads whose hash state a process keeps; others are hashed again when they end."""


class FilesystemStorage:
    """The storage contract on a directory."""

    def __init__(self, root_directory: str, *, max_threads: int = 100, observe: Observer = unobserved) -> None:
        self._root_directory = root_directory
        self.root = os.path.join(root_directory, "docker/registry/v2")
        self.threads = Threads(max_threads, observe)
        aside = os.path.join(root_directory, ".regatta")
        self.aside = FilesystemAside(aside, self.threads)
        self.trash = FilesystemTrash(f"{aside}/trash", f"{self.root}/blobs", self.threads)
        self.quarantine = FilesystemTrash(f"{aside}/quarantine", f"{self.root}/blobs", self.threads)
        self._hashers: OrderedDict[str, _Progress] = OrderedDict()

    async def blob(self, digest: Digest) -> StoredBlob | None:
        found = self._find(digest)
        if found is None:
            await self.trash.restore(digest)
            found = self._find(digest)  # also if it was not there: another may have taken it back just now
        return found

    def _find(self, digest: Digest) -> StoredBlob | None:
        path = self._blob_path(digest)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        return StoredBlob(digest, found.st_size, path, found.st_mtime)

    async def read_blob(self, digest: Digest) -> bytes | None:
        path = self._blob_path(digest)
        content = read_file(path)
        if content is None and await self.blob(digest) is not None:
            content = read_file(path)
        return content

    async def in_place(self, digest: Digest) -> StoredBlob | None:
        return self._find(digest)

    async def touch(self, digest: Digest) -> None:
        with suppress(FileNotFoundError):
            os.utime(self._blob_path(digest))

    async def forget_touches(self, before: float) -> None:
        """They are the files' own times."""

    def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        return stored(f"{self.root}/blobs", self.threads)

    async def blob_url(self, blob: StoredBlob) -> str | None:
        return None

    async def read_range(self, blob: StoredBlob, start: int, end: int) -> AsyncGenerator[bytes]:
        descriptor = os.open(self._blob_path(blob.digest), os.O_RDONLY)
        try:
            while start < end and (piece := await self.threads.run("read", os.pread, descriptor, COALESCE, start)):
                yield piece[: end - start]
                start += len(piece)
        finally:
            os.close(descriptor)

    async def write_blob(self, digest: Digest, content: bytes) -> None:
        await self.threads.run("write_blob", durable.write_file, self._blob_path(digest), content)

    async def start_upload(self, repository: str) -> str:
        upload_id = str(uuid.uuid4())
        await self.threads.run("start_upload", _start_upload, self._upload_path(repository, upload_id))
        return upload_id

    async def open_upload(self, repository: str, upload_id: str) -> "FilesystemUpload | None":
        directory = self._upload_path(repository, upload_id)
        try:
            descriptor = os.open(f"{directory}/data", os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        return FilesystemUpload(self, directory, descriptor)

    async def drop_upload(self, repository: str, upload_id: str) -> None:
        await self.threads.run("remove", _remove, self._upload_path(repository, upload_id))

    async def stale_uploads(self, before: datetime) -> list[tuple[str, str]]:
        def search() -> list[tuple[str, str]]:
            return [
                (repository, upload_id)
                for repository in _folders_with(f"{self.root}/repositories", "_uploads")
                for upload_id in os.listdir(f"{self.root}/repositories/{repository}/_uploads")
                if _last_touched(self._upload_path(repository, upload_id)) < before.timestamp()
            ]

        return await self.threads.run("search", search)

    async def read(self, path: str) -> bytes | None:
        return read_file(f"{self.root}/{path}")

    async def write(self, *files: tuple[str, bytes]) -> None:
        def write_in_order() -> None:
            for path, content in files:
                durable.write_file(f"{self.root}/{path}", content)

        await self.threads.run("write", write_in_order)

    async def create(self, path: str, content: bytes) -> bool:
        return await self.threads.run("write", durable.create_file, f"{self.root}/{path}", content)

    async def exists(self, path: str) -> bool:
        return os.path.exists(f"{self.root}/{path}")

    async def modified(self, path: str) -> float | None:
        try:
            return os.stat(f"{self.root}/{path}").st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def first_existing(self, paths: Sequence[str]) -> int | None:
        def search() -> int | None:
            return next((i for i, path in enumerate(paths) if os.path.exists(f"{self.root}/{path}")), None)

        return await self.threads.run("search", search)

    async def version(self, path: str) -> object | None:
        try:
            changed = os.stat(f"{self.root}/{path}").st_mtime_ns
        except FileNotFoundError:
            return 0
        return changed if time.time() - changed / 1e9 > SETTLED else None

    async def names(self, path: str) -> list[str]:
        try:
            return os.listdir(f"{self.root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def folders(self, path: str, *, having: str) -> tuple[list[str], bool]:
        names = await self.names(path)
        found = [name for name in names if os.path.exists(f"{self.root}/{path}/{name}/{having}")]
        return found, len(found) == len(names)

    async def walk(self, path: str, *, until: str) -> list[str]:
        return await self.threads.run("walk", lambda: sorted(_folders_with(f"{self.root}/{path}", until)))

    async def remove(self, path: str) -> bool:
        return await self.threads.run("remove", _remove, f"{self.root}/{path}")

    async def prune(self, path: str) -> None:
        await self.threads.run("remove", _prune, f"{self.root}/{path}", self.root)

    async def check(self) -> None:
        await self.threads.run("check", self._check)

    def _check(self) -> None:
        probe = os.path.join(self._root_directory, f".regatta-health-{os.getpid()}")
        content = os.urandom(16)
        try:
            os.makedirs(self._root_directory, exist_ok=True)
            with open(probe, "wb", buffering=0) as file:
                file.write(content)
            if read_file(probe) != content:
                raise StorageError(f"{self._root_directory} gave back something else than was written")
        finally:
            with suppress(OSError):
                os.unlink(probe)

    def _blob_path(self, digest: Digest) -> str:
        return blob_file(f"{self.root}/blobs", digest)

    def _upload_path(self, repository: str, upload_id: str) -> str:
        return f"{self.root}/repositories/{repository}/_uploads/{upload_id}"


class _Progress:
    """The hash of an upload's first `offset` bytes."""

    __slots__ = ("hasher", "offset")

    def __init__(self) -> None:
        self.hasher = hashlib.new(CANONICAL)
        self.offset = 0


class FilesystemUpload:
    """An upload that this request has open."""

    def __init__(self, storage: FilesystemStorage, directory: str, descriptor: int) -> None:
        self._storage = storage
        self._directory = directory
        self._descriptor = descriptor
        self._closed = False
        self.offset = os.fstat(descriptor).st_size

    def lock(self) -> None:
        try:
            flock(self._descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise UploadBusy from error
        if not os.path.exists(f"{self._directory}/data"):
            # Opened before another process finished the upload: the file is a blob by now, and must not grow.
            raise UploadGone
        self.offset = os.fstat(self._descriptor).st_size

    async def append(self, body: AsyncIterator[bytes]) -> int:
        progress = self._take_progress()
        before = self.offset
        gathered: list[bytes] = []
        size = 0
        writing: asyncio.Future[None] | None = None
        try:
            # The next pieces are received while the last ones are being written: at most twice COALESCE is held.
            async for piece in body:
                gathered.append(piece)
                size += len(piece)
                if size >= COALESCE or len(gathered) >= MAX_GATHERED:
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(self._write(gathered, size, progress))
                    gathered, size = [], 0
        finally:
            if writing is not None:
                await writing
            if gathered:
                await self._write(gathered, size, progress)
        if progress is not None:
            self._storage._hashers[self._directory] = progress
        return self.offset - before

    async def digest(self, algorithm: str) -> Digest:
        progress = self._storage._hashers.get(self._directory)
        if algorithm == CANONICAL and progress is not None and progress.offset == self.offset:
            return Digest.from_hasher(progress.hasher)
        return await self._storage.threads.run("hash", _digest_of_file, f"{self._directory}/data", algorithm)

    async def commit(self) -> None:
        digest = await self.digest(CANONICAL)
        await self._storage.threads.run("commit", self._commit, self._storage._blob_path(digest))
        self._forget()

    async def cancel(self) -> None:
        await self._storage.threads.run("remove", _remove, self._directory)
        self._forget()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    def _commit(self, target: str) -> None:
        """Content is synced before it gets its name, so a blob that can be seen is complete.

        A blob that is already there is replaced by the same content, which mends one that a disk has damaged. It counts
        as written now, however long ago its last bytes came.
        """
        os.utime(self._descriptor)
        os.fsync(self._descriptor)
        durable.move_file(f"{self._directory}/data", target)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _write(self, pieces: list[bytes], size: int, progress: "_Progress | None") -> None:
        await self._storage.threads.run("append", self._write_and_hash, pieces, progress)
        self.offset += size

    def _write_and_hash(self, pieces: list[bytes], progress: "_Progress | None") -> None:
        wanted = sum(map(len, pieces))
        written = os.writev(self._descriptor, pieces)
        if written < wanted:
            durable.write_all(self._descriptor, b"".join(pieces)[written:])
        if progress is not None:
            for piece in pieces:
                progress.hasher.update(piece)
            progress.offset += wanted

    def _take_progress(self) -> _Progress | None:
        """The hash state, if this process has seen all the bytes so far."""
        progress = self._storage._hashers.pop(self._directory, None)
        if progress is None and self.offset == 0:
            progress = _Progress()
            while len(self._storage._hashers) >= KEPT_HASHERS:
                self._storage._hashers.popitem(last=False)
        return progress if progress is not None and progress.offset == self.offset else None

    def _forget(self) -> None:
        self._storage._hashers.pop(self._directory, None)
        self.close()


def _start_upload(directory: str) -> None:
    """Not synced: an upload that a power failure takes is begun anew. The repository around it shall stay, though."""
    durable.make_directory(directory)
    with open(f"{directory}/startedat", "w", encoding="ascii") as file:
        file.write(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    with open(f"{directory}/data", "xb"):
        pass


def _last_touched(directory: str) -> float:
    for path in (f"{directory}/data", directory):
        with suppress(FileNotFoundError):
            return os.stat(path).st_mtime
    return math.inf


def _digest_of_file(path: str, algorithm: str) -> Digest:
    with open(path, "rb", buffering=0) as file:
        return Digest.from_hasher(hashlib.file_digest(file, algorithm))


def _remove(path: str) -> bool:
    found = durable.remove_tree(path)
    if found:
        durable.sync_directory(os.path.dirname(path))
    return found


def _prune(path: str, root: str) -> None:
    for folder, _, _ in os.walk(path, topdown=False):
        if os.path.basename(os.path.dirname(folder)) != "_uploads":  # one that begins has no file for a moment
            with suppress(OSError):
                os.rmdir(folder)
    above = os.path.dirname(path)
    with suppress(OSError):
        while os.path.dirname(above) != root:
            os.rmdir(above)
            above = os.path.dirname(above)


def _folders_with(root: str, until: str, prefix: str = "") -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(f"{root}/{prefix}") as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return found
    for name in names:
        if name == until:
            found.append(prefix.rstrip("/"))
        elif not name.startswith("_"):
            found.extend(_folders_with(root, until, f"{prefix}{name}/"))
    return found
