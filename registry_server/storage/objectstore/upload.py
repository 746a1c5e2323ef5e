"""Uploads in a bucket: segments, and a state that lists them.

    _uploads/<id>/state             the segments in their order, replaced on condition of its version
    _uploads/<id>/<segment>         what one request brought, or the first 4 GiB of it, and so on; never changed
    _uploads/<id>/startedat         for distribution

A segment counts once the state lists it. Of two requests that add to the same upload, the one that replaces the state
first is right, and the other learns that its version has passed; no lock has to outlive a process that is killed.
A hash state belongs to a list of segments, so what is committed is always what was hashed, on any store.
"""

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from registry_server.reference import CANONICAL, Digest
from registry_server.storage.contract import StorageError, UploadBusy, UploadGone
from registry_server.storage.objectstore.bucket import MOST_COPIED, Conflict, Version

if TYPE_CHECKING:
    from registry_server.storage.objectstore.storage import ObjectStorage

logger = logging.getLogger(__name__)

SEGMENT: Final = MOST_COPIED
"""Bytes of a segment at most."""
COALESCE: Final = 1 << 20
"""Bytes gathered before they are hashed and handed on."""
MAX_GATHERED: Final = 512
"""Pieces gathered, however small; a client chooses their size."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an upload, an object of its own."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """What an upload has received."""

    NAME: ClassVar[str] = "state"

    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    def dump(self) -> bytes:
        return json.dumps({"segments": [[segment.name, segment.size] for segment in self.segments]}).encode()

    @classmethod
    def load(cls, content: bytes) -> "State":
        """Raises StorageError."""
        try:
            return cls(tuple(Segment(str(name), int(size)) for name, size in json.loads(content)["segments"]))
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"the state of an upload is damaged: {error}") from error


@dataclass(slots=True)
class Progress:
    """The hash of some segments."""

    segments: tuple[Segment, ...] = ()
    hasher: Any = field(default_factory=lambda: hashlib.new(CANONICAL))


class ObjectUpload:
    """An upload that this request has open."""

    def __init__(self, storage: "ObjectStorage", folder: str, state: State, version: Version) -> None:
        self._storage = storage
        self._bucket = storage.bucket
        self._folder = folder
        self._state = state
        self._version = version
        self._locked = False

    @property
    def offset(self) -> int:
        return self._state.size

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self._state.segments

    def lock(self) -> None:
        if self._folder in self._storage.writing:
            raise UploadBusy
        self._storage.writing.add(self._folder)
        self._locked = True

    async def append(self, body: AsyncIterator[bytes]) -> int:
        kept = self._storage.hashers.pop(self._folder, None) or Progress()
        progress = kept if kept.segments == self._state.segments else None
        before = self.offset
        source = _Source(body, None if progress is None else progress.hasher)
        while not source.ended:
            segment = await self._write_segment(source)
            if segment is not None:
                await self._add(segment)
        if progress is not None:
            progress.segments = self._state.segments
            self._storage.keep(self._folder, progress)
        source.check()
        return self.offset - before

    async def digest(self, algorithm: str) -> Digest:
        progress = self._storage.hashers.get(self._folder)
        if algorithm == CANONICAL and progress is not None and progress.segments == self._state.segments:
            return Digest.from_hasher(progress.hasher)
        hasher = hashlib.new(algorithm)
        async for piece in self._content():
            await _hash(hasher, piece)
        if algorithm == CANONICAL:
            self._storage.keep(self._folder, Progress(self._state.segments, hasher))
        return Digest.from_hasher(hasher)

    async def commit(self) -> None:
        digest = await self.digest(CANONICAL)
        target = self._storage.blob_key(digest)
        segments = self._state.segments
        if len(segments) == 1 and self._bucket.copies:
            if not await self._bucket.copy(f"{self._folder}/{segments[0].name}", target):
                raise UploadGone
        elif self.offset <= self._bucket.chunk:
            content = b"".join([piece async for piece in self._content()])
            if Digest.of(content) != digest:
                raise StorageError(f"the segments of {self._folder} have changed in the store")
            await self._bucket.put(target, content)
        else:
            await self._bucket.put_stream(target, self._verified(digest), size=self.offset)
        await self._clean_up()

    async def cancel(self) -> None:
        await self._bucket.delete([f"{self._folder}/{State.NAME}"])
        await self._clean_up()

    def close(self) -> None:
        if self._locked:
            self._locked = False
            self._storage.writing.discard(self._folder)

    async def _write_segment(self, source: "_Source") -> Segment | None:
        """Take a segment from what comes. It is written in parts if it is larger than one, but seen as a whole."""
        name = str(uuid.uuid4())
        first = await source.take(self._bucket.chunk)
        size = sum(map(len, first))
        if not size:
            return None
        key = f"{self._folder}/{name}"
        if source.ended:
            await self._bucket.put(key, b"".join(first))
            return Segment(name, size)
        counted = _Counted(first, source)
        await self._bucket.put_stream(key, aiter(counted), size=SEGMENT)
        return Segment(name, counted.size)

    async def _add(self, segment: Segment) -> None:
        """Make a segment count. Raises UploadBusy, UploadGone."""
        state = State((*self._state.segments, segment))
        try:
            self._version = await self._bucket.put(
                f"{self._folder}/{State.NAME}", state.dump(), replacing=self._version
            )
        except Conflict as error:
            with suppress(StorageError):
                await self._bucket.delete([f"{self._folder}/{segment.name}"])
            if await self._bucket.size(f"{self._folder}/{State.NAME}") is None:
                raise UploadGone from error
            raise UploadBusy from error
        self._state = state

    async def _content(self) -> AsyncGenerator[bytes]:
        for segment in self._state.segments:
            async for piece in self._bucket.read(f"{self._folder}/{segment.name}", 0, segment.size):
                yield piece

    async def _verified(self, digest: Digest) -> AsyncGenerator[bytes]:
        """The content once more, which is no blob if it is not what was hashed."""
        hasher = hashlib.new(CANONICAL)
        async for piece in self._content():
            await _hash(hasher, piece)
            yield piece
        if Digest.from_hasher(hasher) != digest:
            raise StorageError(f"the segments of {self._folder} have changed in the store")

    async def _clean_up(self) -> None:
        """Remove what is no longer needed. What stays because of a fault is purged when it is old."""
        self._storage.hashers.pop(self._folder, None)
        names = (State.NAME, "startedat", *(segment.name for segment in self._state.segments))
        try:
            await self._bucket.delete([f"{self._folder}/{name}" for name in names])
        except StorageError as error:
            logger.warning("an upload that has ended left files behind: %s", error)


class _Source:
    """A request's body, in larger pieces, hashed as it comes."""

    def __init__(self, body: AsyncIterator[bytes], hasher: Any | None) -> None:
        self._body = body
        self._hasher = hasher
        self._error: Exception | None = None
        self.ended = False

    async def piece(self) -> bytes:
        """The next COALESCE bytes or fewer; nothing at the end, also of a body that broke."""
        gathered: list[bytes] = []
        size = 0
        try:
            while size < COALESCE and len(gathered) < MAX_GATHERED:
                gathered.append(await anext(self._body))
                size += len(gathered[-1])
        except StopAsyncIteration:
            self.ended = True
        except Exception as error:  # noqa: BLE001  (raised by `check`, once what came is kept)
            self.ended = True
            self._error = error
        content = b"".join(gathered)
        if self._hasher is not None and content:
            await _hash(self._hasher, content)
        return content

    async def take(self, size: int) -> list[bytes]:
        """The next pieces, until there are `size` bytes or the body ends."""
        pieces: list[bytes] = []
        taken = 0
        while taken < size and not self.ended:
            pieces.append(await self.piece())
            taken += len(pieces[-1])
        return pieces

    def check(self) -> None:
        """Raise what broke the body."""
        if self._error is not None:
            raise self._error


class _Counted:
    """A segment as it is written: what was taken already, and more until SEGMENT or the end."""

    def __init__(self, first: list[bytes], source: _Source) -> None:
        self._first = first
        self._source = source
        self.size = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        for piece in self._first:
            self.size += len(piece)
            yield piece
        self._first = []
        while self.size + COALESCE <= SEGMENT and not self._source.ended:
            piece = await self._source.piece()
            self.size += len(piece)
            if piece:
                yield piece


async def _hash(hasher: Any, content: bytes) -> None:
    """In a thread, as hashing a mebibyte takes longer than a small request."""
    await asyncio.to_thread(hasher.update, content)
