"""What the first process asks an object store before it forks.

obstore's runtime must not be in a process that forks, so each question is asked by a process of its own.
"""

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from registry_server.config import Storage as Settings
from registry_server.storage.contract import StorageError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from registry_server.storage.objectstore.storage import ObjectStorage

T = TypeVar("T")


def shared_secret(settings: Settings, name: str) -> bytes:
    """32 random bytes that are kept in the bucket, the same for all processes. Raises StorageError."""
    return _ask(partial(_shared_secret, settings, name))


def try_writing(settings: Settings) -> None:
    """Write a small object and remove it. Raises StorageError."""
    _ask(partial(_try_writing, settings))


def _ask(question: Callable[[], T]) -> T:
    """The process ends with its answer, whatever becomes of the one that asks."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(question, sender))
    with receiver:
        with sender:
            process.start()
        try:
            outcome = receiver.recv()
        except EOFError:
            raise StorageError("the process that asks the store has ended without an answer") from None
        finally:
            process.join()
    if isinstance(outcome, Exception):
        raise outcome
    answer: T = outcome
    return answer


def _tell(question: Callable[[], T], sender: "Connection") -> None:
    try:
        sender.send(question())
    except Exception as error:  # noqa: BLE001  (raised where the answer is awaited)
        sender.send(error)


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
