"""The state directory of local mode: what lies where, and who may use it.

lock                                   held by the running `local up`; holds its process id
objects/NAMESPACE/PLURAL/NAME.json     the objects, as an API server would keep them
registries/NAMESPACE/NAME/             what a registry's process is given: config/, tls/, auth/, data (a link)
data/NAMESPACE/CLAIM/                  the volumes: the registries' content
logs/NAMESPACE/NAME.log                what the processes said
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

_PRIVATE_DIRECTORY: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class StateInUse(Exception):
    """Another `local up` runs on this state directory."""


class StateDirectory:
    """Paths below one directory that only its owner can read."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.objects = self.root / "objects"

    @classmethod
    def default(cls) -> "StateDirectory":
        """`$XDG_STATE_HOME/regatta`, or `~/.local/state/regatta` (XDG Base Directory Specification)."""
        base = os.environ.get("XDG_STATE_HOME", "")
        return cls((Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "regatta")

    def registry(self, namespace: str, name: str) -> Path:
        """Where a registry's process finds its files."""
        return self.root / "registries" / namespace / name

    def claim(self, namespace: str, name: str) -> Path:
        """What stands for a PersistentVolumeClaim's volume."""
        return self.root / "data" / namespace / name

    def log(self, namespace: str, name: str) -> Path:
        """The log of a Deployment's process."""
        return self.root / "logs" / namespace / f"{name}.log"

    def scratch(self, namespace: str, name: str) -> Path:
        """For temporary files of a Deployment's process; emptied at each start."""
        return self.root / "tmp" / namespace / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and keep it for this process alone. Raises StateInUse.

        The kernel drops the lock with the process, however that ends.
        """
        make_private_directory(self.root)
        with _open_private(self.root / "lock", os.O_RDWR | os.O_CREAT) as lock:
            if not _lock(lock):
                raise StateInUse(
                    f"another `local up` (process {self.running_pid()}) uses {self.root}: stop it with "
                    f"`registry-operator local down`, or choose another directory with --state"
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n".encode())
            lock.flush()
            yield

    def running_pid(self) -> int | None:
        """The process that holds the lock, None if there is none."""
        try:
            with (self.root / "lock").open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(lock.read() or 0) or None
        except FileNotFoundError:
            pass
        return None


def make_private_directory(path: Path) -> Path:
    """Make the directory and those above it that are missing, for the owner alone."""
    for directory in reversed((path, *path.parents)):
        if not directory.exists():
            directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole, for the owner alone to read, safe against power loss."""
    make_private_directory(path.parent)
    scratch = path.with_name(f".{path.name}.new")
    with _open_private(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _lock(file: BinaryIO) -> bool:
    """Whether the lock could be had. Someone who only looks holds it for a moment, hence the second try."""
    for pause in (0.1, 0.2, 0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def _open_private(path: Path, flags: int) -> BinaryIO:
    mode = "wb" if flags & os.O_TRUNC else "r+b"
    return cast(BinaryIO, os.fdopen(os.open(path, flags, _PRIVATE_FILE), mode))
