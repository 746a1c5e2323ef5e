"""Blocking work, off the event loop."""

import asyncio
import errno
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from registry_server.storage.contract import StorageError, StorageFull
from registry_server.storage.observing import Observer

T = TypeVar("T")


class Threads:
    """The threads that wait for a file system."""

    def __init__(self, most: int, observe: Observer) -> None:
        self._observe = observe
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="storage")

    async def run(self, operation: str, work: Callable[..., T], *args: Any) -> T:
        """Run work in a thread, its failures said in the contract's terms."""
        began = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(str(error)) from error
            raise StorageError(str(error)) from error
        finally:
            self._observe(operation, time.perf_counter() - began)
