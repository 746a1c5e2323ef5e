"""The journal: events on disk, in the order in which they happened, until every endpoint has them.

    <directory>/00000000000000000000.events     segments, named by the number of their first event, one event a line
                00000000000000001482.events     the newest is written to, and never removed
                5e884898da280471.next           the number of the event that an endpoint gets next, by its name's digest
                lock, courier                   held while segments change; held by the process that delivers

All workers of a server append to the same segment, and so may servers that share the directory: whatever was
acknowledged before another request began also stands before it. Every write is one `write(2)` under the lock, so that
only a process killed right within it leaves a part of a line, which the next writer cuts off.
"""

import hashlib
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from itertools import pairwise
from pathlib import Path
from typing import Final

SEGMENT: Final = 1 << 20
"""Bytes after which a new segment begins; also what an endpoint reads at once at most."""
SEGMENTS_AT_LEAST: Final = 4
"""Into so many a small spool is split, so that dropping the oldest does not drop everything."""

_SEGMENT_NAME = re.compile(r"(\d{20})\.events")
_POSITION: Final = 20
"""Digits of a number in a position's file: always as many, so that one write replaces it whole."""


class SpoolError(Exception):
    """A directory that can't hold a journal; the message says why."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that follow each other."""

    first: int
    """The number of the first."""
    lines: Sequence[bytes]
    end: int
    """The number that the next event will have that happens."""


class Journal:
    """The events of one directory, for any number of threads and processes."""

    def __init__(self, directory: Path, *, max_size: int) -> None:
        self._directory = directory
        self._max_size = max_size
        self._segment_size = min(SEGMENT, max_size // SEGMENTS_AT_LEAST)
        self._counted = _Counted(-1)
        self._threads = threading.Lock()

    def append(self, lines: Iterable[bytes]) -> None:
        """Add events, durable when this returns. Raises OSError; then none of them was added."""
        content = b"".join(line + b"\n" for line in lines)
        with self._locked():
            counted = self._newest()
            if counted.size >= self._segment_size:
                counted = self._begin(counted.end)
            descriptor = os.open(self._path(counted.first), os.O_WRONLY | os.O_APPEND)
            try:
                _write_or_undo(descriptor, content, counted.size)
            except OSError:
                os.close(descriptor)
                raise
            counted.add(content)
        # Others may write on meanwhile: what is synced then is only more.
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, number: int) -> Batch:
        """The events from `number` on, at most a segment of them; from the oldest there is when that one is gone."""
        with self._locked():
            end = self._newest().end
            if number >= end:
                return Batch(end, (), end)
            segments = self._segments()
            number = max(number, segments[0])
            first = segments[bisect_right(segments, number) - 1]
            lines = self._path(first).read_bytes().split(b"\n")[:-1]  # after the last newline is no event
            return Batch(number, lines[number - first :], end)

    def trim(self, number: int) -> None:
        """Remove the segments whose events all come before `number`."""
        with self._locked():
            segments = self._segments()
            for first, following in pairwise(segments):
                if following <= number:
                    self._path(first).unlink()

    def end(self) -> int:
        """The number that the next event will have."""
        with self._locked():
            return self._newest().end

    def position(self, endpoint: str) -> "Position":
        """Where an endpoint stands; one that is new gets what happens from now on."""
        return Position(self._directory / _position_name(endpoint), self.end())

    def forget_others(self, endpoints: Iterable[str]) -> None:
        """Drop the positions of endpoints that are not among these."""
        kept = set(map(_position_name, endpoints))
        for path in self._directory.glob("*.next"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def slowest(self, otherwise: int) -> int:
        """The number before which nothing is needed any more, also by endpoints that only another server knows."""
        positions = [_read_position(path) for path in self._directory.glob("*.next")]
        return min([otherwise, *(number for number in positions if number is not None)])

    @contextmanager
    def couriers_lock(self) -> Iterator[bool]:
        """True while no other process delivers; whoever has the lock holds it until it ends."""
        descriptor = os.open(self._directory / "courier", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                flock(descriptor, LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _newest(self) -> "_Counted":
        """The newest segment with its size and the number of its events; the lock is held."""
        segments = self._segments()
        if not segments:
            return self._begin(0)
        if self._counted.first != segments[-1]:
            self._counted = _Counted(segments[-1])
        self._counted.catch_up(self._path(segments[-1]))
        return self._counted

    def _begin(self, number: int) -> "_Counted":
        """A new segment for the events from `number` on; the oldest ones make room for it."""
        path = self._path(number)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._drop_oldest()
        _sync(self._directory)
        self._counted = _Counted(number)
        return self._counted

    def _drop_oldest(self) -> None:
        segments = self._segments()
        sizes = [self._path(first).stat().st_size for first in segments]
        excess = sum(sizes) + self._segment_size - self._max_size
        for first, size in zip(segments[:-1], sizes, strict=False):
            if excess <= 0:
                return
            self._path(first).unlink()
            excess -= size

    def _segments(self) -> list[int]:
        matches = (_SEGMENT_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _path(self, first: int) -> Path:
        return self._directory / f"{first:020d}.events"


class _Counted:
    """The size of a segment and how many events it has, as far as this process has looked."""

    __slots__ = ("count", "first", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self.count = 0

    @property
    def end(self) -> int:
        return self.first + self.count

    def add(self, content: bytes) -> None:
        self.size += len(content)
        self.count += content.count(b"\n")

    def catch_up(self, path: Path) -> None:
        """Count what others have written, and cut off what one left that was killed within its write."""
        if path.stat().st_size == self.size:
            return
        with path.open("r+b", buffering=0) as file:
            file.seek(self.size)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self.add(whole)
            if len(whole) < len(content):
                file.truncate(self.size)


class Position:
    """The number of the event that an endpoint gets next, kept through restarts.

    It isn't synced: a power failure that takes the last ones makes a receiver see some events again, and no less.
    """

    def __init__(self, path: Path, otherwise: int) -> None:
        known = _read_position(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.number = otherwise
        self.advance(otherwise if known is None else min(known, otherwise))

    def advance(self, number: int) -> None:
        os.pwrite(self._descriptor, f"{number:0{_POSITION}d}\n".encode(), 0)
        self.number = number

    def close(self) -> None:
        os.close(self._descriptor)


def prepare_spool(directory: Path, *, max_size: int, endpoints: Sequence[str]) -> None:
    """Make the directory, and settle where each endpoint begins before anything happens. Raises SpoolError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = Journal(directory, max_size=max_size)
        journal.forget_others(endpoints)
        for endpoint in endpoints:
            journal.position(endpoint).close()
    except OSError as error:
        raise SpoolError(f"{directory}: {error.strerror}; the server's user must be able to write there") from error


def _position_name(endpoint: str) -> str:
    return f"{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.next"


def _read_position(path: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        return int(path.read_bytes())
    return None


def _write_or_undo(descriptor: int, content: bytes, size: int) -> None:
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
