"""Several waits at a time, but not any number."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 16
"""Waits at a time: a list may have thousands of entries, and a store answers to some tens of requests at once."""


async def in_parallel(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """The results of `work` for each item, in their order."""
    results: list[R] = []
    for start in range(0, len(items), AT_ONCE):
        results += await asyncio.gather(*map(work, items[start : start + AT_ONCE]))
    return results
