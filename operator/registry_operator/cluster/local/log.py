"""The log files of processes: bounded in size, kept over restarts."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from registry_operator.cluster.local.state import make_private_directory

SIZE_LIMIT: Final = 10 * 2**20
"""Bytes of a log file before it is put aside."""
KEPT: Final = 2
"""Files put aside: NAME.log.1 is newer than NAME.log.2."""

_POLL: Final = 0.2
"""Seconds between looks for new lines."""


class RotatingLog:
    """A file that is put aside when it grows too large."""

    def __init__(self, path: Path, *, limit: int = SIZE_LIMIT) -> None:
        self.path = path
        self._limit = limit
        make_private_directory(path.parent)
        self._file = path.open("ab", buffering=0)

    def write(self, content: bytes) -> None:
        """Append; the file is put aside first if it is full."""
        if self._file.tell() + len(content) > self._limit and self._file.tell():
            self._rotate()
        self._file.write(content)

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(KEPT, 0, -1):
            older = aside(self.path, number)
            newer = self.path if number == 1 else aside(self.path, number - 1)
            if newer.exists():
                newer.replace(older)
        self._file = self.path.open("ab", buffering=0)


def aside(path: Path, number: int) -> Path:
    """Where a log file lies once it was put aside `number` times."""
    return path.with_name(f"{path.name}.{number}")


def last_line(path: Path) -> str:
    """The last line with anything on it; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""


def read_lines(path: Path, *, tail: int | None = None) -> Iterator[str]:
    """The lines of a log with those put aside, oldest first; the last `tail` of them."""
    if not path.exists():
        return iter(())
    with path.open("rb") as file:
        return iter(_past(path, file, tail))


def follow_lines(path: Path, *, tail: int | None = None) -> Iterator[str]:
    """The lines of a log, then new ones as they come, for ever; through rotations, and before there is a log."""
    while not path.exists():
        time.sleep(_POLL)
    with path.open("rb") as file:
        yield from _past(path, file, tail)
        yield from _until_put_aside(path, file)
    while True:
        with path.open("rb") as file:
            yield from _until_put_aside(path, file)


def _until_put_aside(path: Path, file: BinaryIO) -> Iterator[str]:
    """Lines as they come, up to the last of the file; another has its name by then."""
    while True:
        put_aside = path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno()))
        yield from _whole_lines(file)
        if put_aside:
            return
        time.sleep(_POLL)


def _past(path: Path, file: BinaryIO, tail: int | None) -> Sequence[str]:
    lines: deque[str] = deque(maxlen=tail)
    for number in range(KEPT, 0, -1):
        if (older := aside(path, number)).exists():
            with older.open("rb") as put_aside:
                lines.extend(_whole_lines(put_aside))
    lines.extend(_whole_lines(file))
    return lines


def _whole_lines(file: BinaryIO) -> Iterator[str]:
    """The lines from here to the end; one that is still being written is left for later."""
    while (line := file.readline()).endswith(b"\n"):
        yield line[:-1].decode(errors="replace")
    file.seek(-len(line), os.SEEK_CUR)
