"""htpasswd files: users and bcrypt hashes of their passwords, read by the server, written by command and operator."""

import os
import re
import secrets
import string
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import bcrypt

from registry_server.config import ConfigError

DEFAULT_COST = 10
LONGEST_PASSWORD = 72
"""Bytes: all that bcrypt looks at."""

_HIGHEST_COST = 16
"""About four seconds a login; anything higher lets one client with a wrong password hold a core."""

_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}")
_OTHER_HASHES = (
    ("$apr1$", "MD5"),
    ("{SHA}", "SHA-1"),
    ("$5$", "SHA-256"),
    ("$6$", "SHA-512"),
    ("$2x$", "a broken bcrypt"),
)
_ALPHABET = "./" + string.ascii_letters + string.digits


class HtpasswdError(ConfigError):
    """A file that cannot be used; one line a fault, with file, line and user, never a hash."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from the next without reading it."""

    mtime_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


@dataclass(frozen=True, slots=True)
class Users:
    """The users of one state of a file."""

    hashes: dict[str, bytes] = field(repr=False)
    stamp: Stamp
    dummy: bytes = field(repr=False)
    """A hash of nothing known, as dear to check as most users' own, for names that do not exist."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The users in the file at `path`; raises HtpasswdError with every fault.

        A line is `user:hash`; empty lines and those that begin with `#` are skipped. Hashes other than bcrypt's
        (`$2a$`, `$2b$`, `$2y$`) are faults: distribution skips them, and such a user can never log in.
        """
        try:
            with path.open("rb") as file:
                stamp = Stamp.of(os.fstat(file.fileno()))
                text = file.read().decode()
        except OSError as error:
            hint = f"make it with: registry-server htpasswd {path} USER"
            raise HtpasswdError(f"{path}: cannot be read: {error.strerror}; {hint}") from None
        except UnicodeDecodeError:
            raise HtpasswdError(f"{path}: is not a text in UTF-8; save it as such") from None
        hashes = parse(text, source=str(path))
        costs = Counter(map(_cost, hashes.values()))
        return cls(hashes, stamp, _dummy(costs.most_common(1)[0][0] if costs else DEFAULT_COST))


def parse(text: str, *, source: str) -> dict[str, bytes]:
    """Users and their hashes in a file's text; raises HtpasswdError with every fault, each led by `source:line`."""
    hashes: dict[str, bytes] = {}
    faults: list[str] = []
    for number, user, hashed in _entries(text):
        if fault := _fault(user, hashed, user in hashes):
            faults.append(f"{source}:{number}: {fault}")
        else:
            hashes[user] = hashed.encode()
    if faults:
        raise HtpasswdError(*faults)
    return hashes


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            user, _, hashed = entry.partition(":")
            yield number, user, hashed


def _fault(user: str, hashed: str, again: bool) -> str | None:
    if not user or not hashed:
        return "must be user:hash; write such a line with: registry-server htpasswd USER"
    if again:
        return f"user {user} has a line above already; remove one of them"
    if match := _BCRYPT.fullmatch(hashed):
        cost = int(match["cost"])
        if not 4 <= cost <= _HIGHEST_COST:
            return f"user {user} has a bcrypt cost of {cost}; make a new hash with a cost from 4 to {_HIGHEST_COST}"
        return None
    kind = next((name for start, name in _OTHER_HASHES if hashed.startswith(start)), "no bcrypt")
    return f"user {user} has {kind} hash; only bcrypt is safe: make a new one with: registry-server htpasswd USER"


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _dummy(cost: int) -> bytes:
    rest = "".join(secrets.choice(_ALPHABET) for _ in range(31))
    return bcrypt.gensalt(cost) + rest.encode()


def hash_password(password: str, cost: int = DEFAULT_COST) -> str:
    """The bcrypt hash of `password` for an htpasswd file.

    Raises ValueError for an empty one and for more than 72 bytes: bcrypt would ignore the rest without a word.
    """
    raw = password.encode()
    if not raw:
        raise ValueError("the password is empty; give one")
    if len(raw) > LONGEST_PASSWORD:
        raise ValueError(
            f"the password has {len(raw)} bytes and bcrypt looks at {LONGEST_PASSWORD}; give a shorter one"
        )
    return bcrypt.hashpw(raw, bcrypt.gensalt(cost)).decode()


def check_password(password: bytes, hashed: bytes) -> bool:
    """Whether `password` is the one behind `hashed`; takes tens of milliseconds by design.

    Bytes after the 72nd do not count, as in distribution and in Apache's htpasswd, which hashes longer passwords so.
    """
    return bcrypt.checkpw(password[:LONGEST_PASSWORD], hashed)


def check_user(user: str) -> str:
    """`user` when it can stand in an htpasswd file and in a Basic login (RFC 7617); raises ValueError."""
    if not user or ":" in user or user.startswith("#") or not user.isprintable() or any(map(str.isspace, user)):
        raise ValueError(
            "the user's name must not be empty, begin with # or have a colon, a blank or a control character"
        )
    return user


def entry(user: str, password: str, cost: int = DEFAULT_COST) -> str:
    """A line of an htpasswd file, without its end; raises ValueError."""
    return f"{check_user(user)}:{hash_password(password, cost)}"


def write_entry(path: Path, line: str) -> bool:
    """Puts `line` into the file at `path` in place of the same user's, or at its end; returns whether the user is new.

    The file is replaced as a whole and is on disk before this returns, so that a server never reads half of it; its
    mode and owner stay, a new one is readable by its owner alone. Raises OSError.
    """
    path = path.resolve()
    user = line.partition(":")[0]
    try:
        lines, status = path.read_text().splitlines(), path.stat()
    except FileNotFoundError:
        lines, status = [], None
    places = [i for i, old in enumerate(lines) if old.strip().partition(":")[0] == user]
    if places:
        lines[places[0]] = line
    else:
        lines.append(line)
    _replace(path, "".join(f"{one}\n" for one in lines), status)
    return not places


def _replace(path: Path, text: str, status: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w") as file:  # noqa: PTH123  (a descriptor, not a path)
            if status is not None:
                os.fchmod(descriptor, status.st_mode & 0o7777)
                with suppress(PermissionError):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
