"""POSIX writes that are on disk when they return.

A file is durable when its content is synced and so is every directory entry on the way to it; `rename` makes it appear
whole or not at all. All functions block and are called in worker threads.
"""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: str) -> None:
    """Create a directory and its missing parents, each with a durable entry."""
    try:
        os.mkdir(path)
    except FileExistsError:
        _sync_entry_once(path)
    except FileNotFoundError:
        make_directories(os.path.dirname(path))
        make_directories(path)
    else:
        sync_directory(os.path.dirname(path))


def write_file(path: str, content: bytes) -> None:
    """Create or replace a file: a reader sees the old content or the new, never a part."""
    temporary = f"{path}.{uuid.uuid4()}.tmp"
    descriptor = _in_directory_of(path, lambda: os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def move_file(source: str, target: str) -> None:
    """Give a file whose content is already synced its final name. Raises FileNotFoundError without `source`."""
    _in_directory_of(target, lambda: os.rename(source, target))
    sync_directory(os.path.dirname(target))


def write_all(descriptor: int, content: bytes) -> None:
    """`os.write`, until nothing is left."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@lru_cache(maxsize=65_536)
def _sync_entry_once(directory: str) -> None:
    """Sync the entry of a directory that another process made and may not have synced yet."""
    sync_directory(os.path.dirname(directory))


def _in_directory_of(path: str, create: Callable[[], T]) -> T:
    """Do what needs the directory of `path`, making it first where it is missing.

    Another process may remove an empty directory between the two steps, hence a second try.
    """
    for _ in range(2):
        try:
            return create()
        except FileNotFoundError:
            make_directories(os.path.dirname(path))
    return create()
