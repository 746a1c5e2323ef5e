"""Our own files beside the layout."""

import os
from collections.abc import Mapping
from contextlib import suppress

from registry_server.storage import durable
from registry_server.storage.filesystem.threads import Threads


class FilesystemAside:
    """The contract's `Aside` on a folder."""

    def __init__(self, root: str, threads: Threads) -> None:
        self._root = root
        self._threads = threads

    async def read(self, path: str) -> bytes | None:
        return await self._threads.run("read", read_file, f"{self._root}/{path}")

    async def write(self, path: str, content: bytes) -> None:
        await self._threads.run("write", durable.write_file, f"{self._root}/{path}", content)

    async def create(self, path: str, content: bytes) -> bool:
        return await self._threads.run("write", durable.create_file, f"{self._root}/{path}", content)

    async def remove(self, path: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._root}/{path}")

        await self._threads.run("remove", remove)

    async def written(self, folder: str) -> Mapping[str, float]:
        return await self._threads.run("search", _written, f"{self._root}/{folder}")


def read_file(path: str) -> bytes | None:
    """A small file's content, None where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        size = os.fstat(descriptor).st_size
        content = os.read(descriptor, size + 1)
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def _written(folder: str) -> dict[str, float]:
    found: dict[str, float] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.endswith(durable.TEMPORARY):
                    found[entry.name] = entry.stat().st_mtime
    return found
