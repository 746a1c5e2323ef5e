"""What the first process asks an object store before it forks.

obstore's runtime must not be in a process that forks, so each question is asked by a process of its own.
"""

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from registry_server.config import Storage as Settings
from registry_server.storage.contract import StorageError

if TYPE_CHECKING:
    from registry_server.storage.objectstore.storage import ObjectStorage

T = TypeVar("T")


def shared_secret(settings: Settings, name: str) -> bytes:
    """32 random bytes that are kept in the bucket, the same for all processes. Raises StorageError."""
    return _ask(partial(_shared_secret, settings, name))


def try_writing(settings: Settings) -> None:
    """Write a small object and remove it. Raises StorageError."""
    _ask(partial(_try_writing, settings))


def _ask(question: Callable[[], T]) -> T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as process:
        return process.submit(question).result()


def _shared_secret(settings: Settings, name: str) -> bytes:
    return _answer(settings, lambda storage: storage.shared_secret(name))


def _try_writing(settings: Settings) -> None:
    _answer(settings, lambda storage: storage.try_writing())


def _answer(settings: Settings, question: "Callable[[ObjectStorage], Awaitable[T]]") -> T:
    from registry_server.storage.objectstore.storage import open_bucket

    async def ask() -> T:
        return await question(open_bucket(settings))

    try:
        return asyncio.run(ask())
    except StorageError as error:
        raise type(error)(str(error)) from None  # its cause can't leave this process
