"""POSIX writes that are on disk when they return.

A file is durable when its content is synced and so is every directory entry on the way to it; `rename` makes it appear
whole or not at all. All functions block and are called in worker threads.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final

TEMPORARY: Final = ".tmp"
"""What the names of files end with that are being written."""
ATTEMPTS: Final = 100
"""Times that something is tried which others may undo at the same moment: few are ever needed, more by many at once."""


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str) -> None:
    """Create a directory, which may be lost again, in parents that may not. Raises FileExistsError."""
    _in_directory_of(path, lambda: os.mkdir(path))


def make_directories(path: str) -> None:
    """Create a directory and its missing parents, each with a durable entry."""
    with suppress(FileExistsError):
        try:
            os.mkdir(path)
        except FileNotFoundError:
            make_directories(os.path.dirname(path))
            os.mkdir(path)
    # Also when another process made it: that one may not have synced it yet.
    sync_directory(os.path.dirname(path))


def write_file(path: str, content: bytes) -> None:
    """Create or replace a file: a reader sees the old content or the new, never a part."""
    _in_directory_of(path, lambda: _write_file(path, content))


def create_file(path: str, content: bytes) -> bool:
    """Create a file unless there is one; returns whether it did."""
    try:
        _in_directory_of(path, lambda: _write_file(path, content, place=_link))
    except FileExistsError:
        return False
    return True


def move_file(source: str, target: str) -> None:
    """Give a file whose content is already synced its final name. Raises FileNotFoundError without `source`."""
    _in_directory_of(target, lambda: os.rename(source, target))
    sync_directory(os.path.dirname(target))


def link_file(source: str, target: str) -> None:
    """Give a file a further name. Raises FileExistsError, and FileNotFoundError without `source`."""
    _in_directory_of(target, lambda: os.link(source, target))
    sync_directory(os.path.dirname(target))


def remove_tree(path: str) -> bool:
    """Remove a directory with all that is in it; False where there was none. Not yet durable.

    What others put into it meanwhile goes as well.
    """
    for _ in range(ATTEMPTS):
        try:
            shutil.rmtree(path)
        except NotADirectoryError:
            return False
        except FileNotFoundError:
            if not os.path.exists(path):
                return False
        except OSError as error:
            # Without a number: a folder in it was replaced by another while it was looked into.
            if error.errno not in (errno.ENOTEMPTY, None):
                raise
        else:
            return True
    shutil.rmtree(path)
    return True


def write_all(descriptor: int, content: bytes) -> None:
    """`os.write`, until nothing is left."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _link(temporary: str, path: str) -> None:
    """Unlike a rename this fails where there is a file already, on every file system and for one of several alone."""
    os.link(temporary, path)
    os.unlink(temporary)


def _write_file(path: str, content: bytes, *, place: Callable[[str, str], None] = os.rename) -> None:
    temporary = f"{path}.{uuid.uuid4()}{TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        place(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def _in_directory_of(path: str, create: Callable[[], None]) -> None:
    """Do what needs the directory of `path`, making it first where it is missing.

    Another request may remove it at any time, hence further tries.
    """
    for _ in range(ATTEMPTS):
        try:
            return create()
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                make_directories(os.path.dirname(path))
    return create()
