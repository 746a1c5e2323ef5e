"""The queue between what happens in the cluster and the reconcile.

A key waits at most once, is worked on by at most one worker, and comes again if it was added meanwhile: however many
events there were, the next run sees the newest state. What fails comes back after a growing, jittered delay and keeps
nobody else waiting.

    add ─► waiting ─► working ─┬─► done, or due again after the delay that the work asked for
             ▲                 └─► failed ─► due again after a backoff
             └── added meanwhile ◄──┘
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

K = TypeVar("K", bound=Hashable)

DEPTH = Gauge("regatta_operator_queue_depth", "Keys that wait for a worker.")
WAITED = Histogram(
    "regatta_operator_queue_latency_seconds",
    "How long a key waited for a worker.",
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300),
)
TOOK = Histogram(
    "regatta_operator_reconcile_duration_seconds",
    "How long a reconcile took.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
)
RECONCILES = Counter("regatta_operator_reconciles", "Reconciles by result: done, requeued, failed.", ["result"])
for _result in ("done", "requeued", "failed"):
    RECONCILES.labels(_result)

SOON: Final = 1.0
"""Seconds until a key that failed is tried again if it was added while it did."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row: between half and all of an exponentially growing delay."""

    first: float = 0.5
    longest: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds. The jitter keeps a fleet that failed together from coming back together."""
        grown = self.first * 2.0 ** min(failures - 1, 30)
        return min(grown, self.longest) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Queue(Generic[K]):
    """Calls `work(key)` for every key added. It returns after how many seconds the key is due again, or None.

    `transient` names the exceptions that stand for a condition outside the program: they are logged as one line.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
        backoff: Backoff = Backoff(),
        transient: tuple[type[Exception], ...] = (),
    ) -> None:
        self._work = work
        self._backoff: Final = backoff
        self._transient: Final = transient
        self._workers: Final = workers
        self._waiting: deque[K] = deque()
        self._since: dict[K, float] = {}
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: Tally[K] = Tally()
        self._free = asyncio.Semaphore(0)
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is worked on. Keys may still be due later."""
        return not self._waiting and not self._working

    def add(self, key: K) -> None:
        """Work on the key as soon as a worker is free."""
        if self._stopping or key in self._since:
            return
        if key in self._working:
            self._again.add(key)
            return
        self._cancel_timer(key)
        self._since[key] = time.monotonic()
        self._waiting.append(key)
        DEPTH.set(self.depth)
        self._free.release()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on the key once this time has passed, or earlier if it is added or was due earlier."""
        if self._stopping or key in self._since:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if (timer := self._timers.get(key)) is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def start(self) -> None:
        """Start the workers."""
        for number in range(self._workers):
            self._tasks.add(asyncio.create_task(self._worker(), name=f"queue worker {number}"))

    async def stop(self, *, grace: float) -> None:
        """Take nothing new; let what is being worked on finish within `grace` seconds, then cancel it."""
        self._stopping = True
        for key in list(self._timers):
            self._cancel_timer(key)
        for _ in self._tasks:
            self._free.release()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _worker(self) -> None:
        while True:
            await self._free.acquire()
            # Work that finds all it reads in a cache never waits: a fleet of it would keep the loop from the Lease.
            await asyncio.sleep(0)
            if self._stopping:
                return
            key = self._waiting.popleft()
            WAITED.observe(time.monotonic() - self._since.pop(key))
            DEPTH.set(self.depth)
            self._working.add(key)
            try:
                delay = await self._run(key)
            finally:
                self._working.discard(key)
            again = key in self._again
            self._again.discard(key)
            if again and key not in self._failures:
                self.add(key)
            elif again and delay is not None:
                # Not at once: a failing run may itself have caused the event that added it.
                self.add_after(key, min(delay, SOON))
            elif delay is not None:
                self.add_after(key, delay)

    async def _run(self, key: K) -> float | None:
        # The outcome says anew when the key is due; what was planned before it is outdated.
        self._cancel_timer(key)
        try:
            with TOOK.time():
                delay = await self._work(key)
        except Exception as error:
            self._failures[key] += 1
            delay = self._backoff.delay(self._failures[key])
            RECONCILES.labels("failed").inc()
            outside = isinstance(error, self._transient)
            logger.log(
                logging.WARNING if outside else logging.ERROR,
                "%s: failed %s times in a row, next try in %.1f s: %s",
                key,
                self._failures[key],
                delay,
                error if str(error) else type(error).__name__,
                exc_info=None if outside else error,
            )
            return delay
        del self._failures[key]
        RECONCILES.labels("done" if delay is None else "requeued").inc()
        return delay

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        with contextlib.suppress(KeyError):
            self._timers.pop(key).cancel()
