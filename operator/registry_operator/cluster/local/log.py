"""The log files of processes: bounded in size, kept over restarts."""

from pathlib import Path
from typing import Final

from registry_operator.cluster.local.state import make_private_directory

SIZE_LIMIT: Final = 10 * 2**20
"""Bytes of a log file before it is put aside."""
KEPT: Final = 2
"""Files put aside: NAME.log.1 is newer than NAME.log.2."""


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
