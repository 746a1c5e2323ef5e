"""Blobs on their way from an upstream into storage, and to everyone who waits for them meanwhile.

    upstream ─► bring ─► upload ─► verified ─► a blob like any other
                  └► spool file ─► readers, each at its own pace

One process brings a blob, the other workers of the server follow the spool file that it writes; a lock on it tells who
does. The last byte is held back until the digest is known to be right, so that content which is not what was asked
for is never taken for whole. A fetch that has begun is finished, whoever leaves: the next to ask finds the blob.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import time
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry_server.metadata.contract import Metadata
from registry_server.proxy.places import Place
from registry_server.proxy.upstream import NotThere
from registry_server.reference import Digest
from registry_server.registry.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    RegistryError,
    TooManyRequests,
    Unavailable,
)
from registry_server.registry.uploads import Chunk, Uploads
from registry_server.storage.contract import StorageError, StoredBlob

logger = logging.getLogger(__name__)

MOST: Final = 64
"""Blobs a worker fetches at once; clients who want more are told to come again."""
PIECE: Final = 256 << 10
"""Bytes read from the spool at a time."""
LOOK_EVERY: Final = 0.05
"""Seconds between looks at what another worker has brought."""
RESUMES: Final = 5
"""Times in a row that a cut blob is asked for again without a byte of it coming."""
PAUSE: Final = 0.2
"""Seconds before a cut blob is asked for again, twice that the next time and so on."""
FORGOTTEN: Final = 3600
"""Seconds after which a spool file that nothing was added to is what a killed server left."""

_SUFFIX: Final = ".arriving"
_HEADER: Final = 8
"""Bytes at the beginning of a spool file: the blob's size and one, or 0 as long as it is not known."""


class _Abandoned(Exception):
    """Whoever should bring the blob has ended before a byte of it came, so that someone else may try."""


class Arrival:
    """One blob on its way: a spool file and how much of it is there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._grown = asyncio.Event()
        self._size: int | None = None
        self.received = 0
        self.ended = False
        self.error: Exception | None = None
        """Why it ended without the blob."""
        # Readers may still be at it when its fetch has long ended; the last of them lets go of the file.
        weakref.finalize(self, os.close, descriptor)

    @property
    def size(self) -> int:
        """Bytes of the blob; it has `begun`."""
        assert self._size is not None  # noqa: S101  (so it is known)
        return self._size

    @property
    def missing(self) -> bool:
        """Whether more of it is to come, as far as can be told."""
        return self._size is not None and self.received < self._size

    @property
    def has_begun(self) -> bool:
        """Whether clients may be told of its size, and so do not wait for its end."""
        return bool(self._size)

    async def begun(self) -> None:
        """Wait until it has, or until an empty blob is verified. Raises what kept it from coming."""
        while not self.ended and not self.has_begun:
            await self._grown.wait()
        if self.error is not None:
            raise self.error

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """A part of the content as it comes, its end exclusive. Raises what kept the rest from coming."""
        loop = asyncio.get_running_loop()
        while start < end:
            there = min(end, self._readable)
            if start < there:
                size = min(PIECE, there - start)
                piece = await loop.run_in_executor(None, os.pread, self._descriptor, size, _HEADER + start)
                start += len(piece)
                yield piece
            elif self.error is not None:
                raise self.error
            else:
                await self._grown.wait()

    @property
    def _readable(self) -> int:
        if self.missing or (self.ended and self.error is None):
            return self.received
        return max(self.received - 1, 0)

    def lock(self) -> bool:
        """Whether this process may bring the blob, which no other does then."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_at(self, path: Path) -> bool:
        """Whether the file is still the one that others find there."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        return False

    def clear(self) -> None:
        """Drop what a killed server has left in the file."""
        os.ftruncate(self._descriptor, 0)

    def announce(self, size: int | None) -> None:
        """Say how large the blob is."""
        if size is not None and self._size is None:
            os.pwrite(self._descriptor, (size + 1).to_bytes(_HEADER, "big"), 0)
            self._size = size
            self._wake()

    async def write(self, piece: bytes) -> None:
        """Add what comes next."""
        loop = asyncio.get_running_loop()
        written = 0
        while written < len(piece):
            at = _HEADER + self.received + written
            written += await loop.run_in_executor(None, os.pwrite, self._descriptor, memoryview(piece)[written:], at)
        self.received += len(piece)
        self._wake()

    def look(self) -> None:
        """See what another process has added."""
        header = int.from_bytes(os.pread(self._descriptor, _HEADER, 0), "big")
        size = header - 1 if header else None
        received = max(os.fstat(self._descriptor).st_size - _HEADER, 0)
        if (size, received) != (self._size, self.received):
            self._size, self.received = size, received
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; without an error the content is whole and verified."""
        self.error = error
        self.ended = True
        if error is None:
            self._size = self.received
        self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown.clear()


@dataclass(frozen=True, slots=True)
class ArrivingBlob(StoredBlob):
    """A blob that will lie in storage; its digest is the one it was asked for by, canonical or not."""

    arrival: Arrival = field(kw_only=True)


class Arrivals:
    """The blobs that a worker waits for."""

    def __init__(self, uploads: Uploads, metadata: Metadata, spool: Path) -> None:
        self._uploads = uploads
        self._metadata = metadata
        self._spool = spool
        self._running: dict[tuple[str, Digest], Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def of(self, place: Place, repository: str, digest: Digest) -> ArrivingBlob:
        """The blob as it comes from its place. Raises BlobUnknown and what keeps it from coming."""
        while True:
            arrival = self._running.get((repository, digest)) or self._begin(place, repository, digest)
            try:
                await arrival.begun()
            except _Abandoned:
                continue
            return ArrivingBlob(digest, arrival.size, arrival=arrival)

    def remove_forgotten(self) -> None:
        """Remove what killed servers have left."""
        for file in self._spool.parent.glob(f"*/*{_SUFFIX}"):
            with suppress(OSError):  # its server has come back and finished it, or the folder has others in it
                if time.time() - file.stat().st_mtime > FORGOTTEN:
                    file.unlink()
                    if file.parent != self._spool:
                        file.parent.rmdir()

    async def close(self) -> None:
        """End what is on its way; begun again, it starts anew."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, place: Place, repository: str, digest: Digest) -> Arrival:
        if len(self._running) >= MOST:
            raise TooManyRequests("many blobs are being fetched; try again in a moment", retry_after=1)
        name = hashlib.sha256(f"{place.upstream} {repository} {digest}".encode()).hexdigest()
        path = self._spool / f"{name}{_SUFFIX}"
        arrival, mine = self._open(path)
        task = asyncio.create_task(self._run(arrival, place, repository, digest, path if mine else None))
        self._running[repository, digest] = arrival
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return arrival

    def _open(self, path: Path) -> tuple[Arrival, bool]:
        """The spool file, and whether it is this process that fills it."""
        while True:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # another host's server may have removed it
            arrival = Arrival(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mine = arrival.lock()
            if arrival.is_at(path):  # and not removed by its last user in between
                if mine:
                    arrival.clear()
                return arrival, mine

    async def _run(self, arrival: Arrival, place: Place, repository: str, digest: Digest, mine: Path | None) -> None:
        error: Exception | None = Unavailable("the server is stopping", retry_after=1)
        try:
            if mine is None:
                await self._follow(arrival, repository, digest)
            else:
                await self._bring(arrival, place, repository, digest)
            error = None
        except (RegistryError, StorageError, OSError, _Abandoned) as failure:
            error = failure
        except Exception as failure:
            logger.exception("%s of %s could not be fetched", digest, repository)
            error = failure
        finally:
            del self._running[repository, digest]
            if mine is not None:
                with suppress(FileNotFoundError):
                    os.unlink(mine)  # noqa: PTH108  (a call on a local file, not worth a thread)
                arrival.unlock()
            arrival.end(error)

    async def _bring(self, arrival: Arrival, place: Place, repository: str, digest: Digest) -> None:
        async with aclosing(_pieces(arrival, place, digest)) as pieces:
            try:
                first = await anext(pieces, b"")
            except NotThere as error:
                raise BlobUnknown(detail={"digest": str(digest)}) from error
            upload_id = await self._uploads.start(repository)
            try:
                await self._uploads.finish(repository, upload_id, Chunk(_chain(first, pieces)), digest)
            except DigestInvalid as error:
                place.upstream.sent_wrong(digest)
                raise Unavailable(f"{place.upstream} sent other content than {digest}; it is not kept") from error
            except BaseException:
                with suppress(BlobUploadUnknown, StorageError):
                    await self._uploads.cancel(repository, upload_id)
                raise

    async def _follow(self, arrival: Arrival, repository: str, digest: Digest) -> None:
        while True:
            ended = arrival.lock()
            arrival.look()
            if ended:
                arrival.unlock()
                break
            await asyncio.sleep(LOOK_EVERY)
        if await self._metadata.linked_blob(repository, digest) is not None:
            return
        if arrival.has_begun:
            raise Unavailable("another worker could not fetch the blob", retry_after=1)
        raise _Abandoned


async def _pieces(arrival: Arrival, place: Place, digest: Digest) -> AsyncGenerator[bytes]:
    """The content, once it is in the spool; asked for again from where it was cut."""
    in_vain = 0
    while True:
        before = arrival.received
        failure: Exception | None = None
        try:
            async with place.upstream.blob(place.repository, digest, arrival.received) as blob:
                arrival.announce(blob.size)
                known = arrival.received - blob.start
                async for received in blob.content.iter_any():
                    place.upstream.count(len(received))
                    piece, known = received[known:], max(known - len(received), 0)
                    if piece:
                        await arrival.write(piece)
                        yield piece
            if not arrival.missing:
                return
        except Unavailable as error:
            failure = error
        in_vain = 0 if arrival.received > before else in_vain + 1
        if not arrival.received or in_vain > RESUMES:
            raise failure or Unavailable(f"{place.upstream} ends {digest} before its end")
        logger.info("%s was cut off after %d bytes; going on there", digest, arrival.received)
        await asyncio.sleep(PAUSE * 2**in_vain)


async def _chain(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
