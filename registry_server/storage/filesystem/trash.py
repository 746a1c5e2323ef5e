"""Contents on their way out, moved from their places by a rename.

When a content was last touched is its file's modification time, which the rename takes along: whoever touches it before
is seen after, and whoever comes later finds no file to touch. From then on that time says when it came here.
"""

import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress

from registry_server.reference import ALGORITHMS, Digest, InvalidDigest
from registry_server.storage import durable
from registry_server.storage.contract import StoredBlob
from registry_server.storage.filesystem.threads import Threads


def blob_file(blobs: str, digest: Digest) -> str:
    """Where a content is, below a folder of contents."""
    return f"{blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


async def stored(blobs: str, threads: Threads) -> AsyncGenerator[Sequence[StoredBlob]]:
    """All contents below a folder of contents."""
    for algorithm in ALGORITHMS:
        for part in await threads.run("search", _names, f"{blobs}/{algorithm}"):
            yield await threads.run(
                "search", lambda part=part, algorithm=algorithm: list(_part(blobs, algorithm, part))
            )


class FilesystemTrash:
    """The contract's `Trash` on a folder of the same file system."""

    def __init__(self, root: str, blobs: str, threads: Threads) -> None:
        self._root = root
        self._blobs = blobs
        self._threads = threads

    async def discard(self, digest: Digest, *, untouched_since: float) -> bool:
        return await self._threads.run("discard", self._discard, digest, untouched_since)

    async def restore(self, digest: Digest) -> bool:
        if not os.path.exists(blob_file(self._root, digest)):
            return False
        return await self._threads.run("restore", self._restore, digest)

    async def purge(self, digest: Digest) -> None:
        await self._threads.run("remove", _remove_file, blob_file(self._root, digest))

    def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        return stored(self._root, self._threads)

    def _discard(self, digest: Digest, untouched_since: float) -> bool:
        place, trash = blob_file(self._blobs, digest), blob_file(self._root, digest)
        try:
            if os.stat(place).st_mtime >= untouched_since:
                return False
            durable.make_directories(os.path.dirname(trash))
            os.rename(place, trash)
            if os.stat(trash).st_mtime >= untouched_since:
                self._restore(digest)
                return False
            os.utime(trash)
        except FileNotFoundError:
            return False  # somebody has taken it back already
        _remove_folder_of(place)
        return True

    def _restore(self, digest: Digest) -> bool:
        place, trash = blob_file(self._blobs, digest), blob_file(self._root, digest)
        try:
            os.utime(trash)
            durable.link_file(trash, place)
        except FileExistsError:
            pass  # pushed again, or taken back by another
        except FileNotFoundError:
            return False
        _remove_file(trash)
        return True


def _part(blobs: str, algorithm: str, part: str) -> Iterator[StoredBlob]:
    """The contents whose digests begin with the same two digits."""
    for name in _names(f"{blobs}/{algorithm}/{part}"):
        with suppress(InvalidDigest, FileNotFoundError, NotADirectoryError):
            digest = Digest.parse(f"{algorithm}:{name}")
            path = blob_file(blobs, digest)
            found = os.stat(path)
            yield StoredBlob(digest, found.st_size, path, found.st_mtime)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_file(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    _remove_folder_of(path)


def _remove_folder_of(path: str) -> None:
    """Of a content's own folder, unless somebody has put it there again."""
    with suppress(OSError):
        os.rmdir(os.path.dirname(path))
