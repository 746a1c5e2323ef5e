"""The queue: one run a key at a time, the newest state always seen, failures delayed and alone."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from registry_operator.runtime.queue import Backoff, Queue

FAST = Backoff(first=0.001, longest=0.004)


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the queue announces nothing
            await asyncio.sleep(0)


async def drained(queue: Queue[Any]) -> None:
    """Returns once nothing waits and nothing is worked on."""
    await until(lambda: queue.idle)


def with_queue(
    work: Callable[[str], Awaitable[float | None]],
    scenario: Callable[[Queue[str]], Awaitable[None]],
    *,
    workers: int = 3,
    backoff: Backoff = FAST,
) -> None:
    """Runs a scenario against a queue with its workers started."""

    async def main() -> None:
        queue = Queue(work, workers=workers, backoff=backoff, transient=(ConnectionError,))
        queue.start()
        await scenario(queue)
        await queue.stop(grace=5)

    asyncio.run(main())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 4)), max_size=30), st.integers(1, 4)
)
def test_a_key_runs_alone_and_once_more_after_its_last_change(steps: list[tuple[str, int, int]], workers: int) -> None:
    """However changes and runs interleave, the last run of a key began after its last change."""
    state: Counter[str] = Counter()
    seen: dict[str, int] = {}
    running: set[str] = set()
    durations = {key: duration for key, _, duration in steps}

    async def work(key: str) -> None:
        assert key not in running
        running.add(key)
        seen[key] = state[key]
        for _ in range(durations[key]):
            await asyncio.sleep(0)
        running.discard(key)

    async def scenario(queue: Queue[str]) -> None:
        for key, pause, _ in steps:
            state[key] += 1
            queue.add(key)
            for _ in range(pause):
                await asyncio.sleep(0)
        await drained(queue)
        assert seen == dict(state)

    with_queue(work, scenario, workers=workers)


def test_many_changes_before_a_run_are_one_run() -> None:
    runs: list[str] = []

    async def work(key: str) -> None:
        runs.append(key)

    async def scenario(queue: Queue[str]) -> None:
        for _ in range(100):
            queue.add("a")
        await drained(queue)
        assert runs == ["a"]

    with_queue(work, scenario)


def test_a_slow_key_holds_up_no_other() -> None:
    async def main() -> None:
        release, others_done = asyncio.Event(), asyncio.Event()
        done: list[str] = []

        async def work(key: str) -> None:
            if key == "slow":
                await release.wait()
            done.append(key)
            if len(done) == 10:
                others_done.set()

        queue = Queue(work, workers=2)
        queue.start()
        queue.add("slow")
        for number in range(10):
            queue.add(str(number))
        await asyncio.wait_for(others_done.wait(), 10)
        release.set()
        await queue.stop(grace=5)
        assert done == [*"0123456789", "slow"]

    asyncio.run(main())


def test_work_that_never_waits_leaves_the_loop_to_others() -> None:
    """As reconciles of an unchanged fleet do: meanwhile the Lease must be renewed and health be answered."""

    async def main() -> None:
        done: list[int] = []
        turns: set[int] = set()

        async def work(key: int) -> None:
            done.append(key)

        queue = Queue(work, workers=4)
        queue.start()
        for number in range(400):
            queue.add(number)
        while len(done) < 400:
            await asyncio.sleep(0)
            turns.add(len(done))
        await queue.stop(grace=5)
        assert len(turns) >= 100

    asyncio.run(main())


def test_a_run_says_when_the_key_is_due_again() -> None:
    runs: list[str] = []

    async def work(key: str) -> float | None:
        runs.append(key)
        return 0.001 if len(runs) < 3 else None

    async def scenario(queue: Queue[str]) -> None:
        queue.add("a")
        await until(lambda: len(runs) == 3)
        await drained(queue)
        assert runs == ["a", "a", "a"]

    with_queue(work, scenario)


def test_of_two_due_times_the_earlier_counts_and_a_run_outdates_both() -> None:
    async def main() -> None:
        ran: asyncio.Queue[float] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def work(key: str) -> None:
            ran.put_nowait(loop.time())

        queue = Queue(work, workers=1)
        queue.start()
        started = loop.time()
        queue.add_after("a", 3600)
        queue.add_after("a", 0.01)
        queue.add_after("a", 3600)
        assert await asyncio.wait_for(ran.get(), 10) >= started + 0.01
        queue.add_after("b", 0.05)
        queue.add("b")
        await asyncio.wait_for(ran.get(), 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ran.get(), 0.1)
        await queue.stop(grace=5)

    asyncio.run(main())


def test_a_failing_key_comes_back_until_it_succeeds_and_the_others_are_untouched() -> None:
    runs: Counter[str] = Counter()

    async def work(key: str) -> None:
        runs[key] += 1
        if key == "broken" and runs[key] < 4:
            raise RuntimeError("still broken")

    async def scenario(queue: Queue[str]) -> None:
        queue.add("broken")
        queue.add("fine")
        await until(lambda: runs["broken"] == 4)
        await drained(queue)
        assert runs == {"broken": 4, "fine": 1}

    with_queue(work, scenario)


def test_a_change_during_a_failing_run_does_not_make_it_spin() -> None:
    """The run may have caused the change itself: without a delay it would fail as fast as it can."""
    runs = 0

    async def main() -> None:
        async def work(key: str) -> None:
            nonlocal runs
            runs += 1
            queue.add(key)
            raise RuntimeError("broken")

        queue = Queue(work, workers=2, backoff=Backoff(first=3600, longest=3600))
        queue.start()
        queue.add("a")
        await drained(queue)
        await asyncio.sleep(0.05)
        assert runs == 1
        await queue.stop(grace=5)

    asyncio.run(main())


def test_a_condition_outside_the_program_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def work(key: str) -> None:
            if key == "away":
                raise ConnectionError("the API server is away")
            done.set()
            raise RuntimeError("a bug")

        queue = Queue(work, workers=1, backoff=Backoff(first=3600, longest=3600), transient=(ConnectionError,))
        queue.start()
        queue.add("away")
        queue.add("bug")
        await asyncio.wait_for(done.wait(), 10)
        await drained(queue)
        await queue.stop(grace=5)

    asyncio.run(main())
    away, bug = caplog.records
    assert (away.levelno, away.exc_info) == (logging.WARNING, None)
    assert "away: failed 1 times" in away.message
    assert "the API server is away" in away.message
    assert bug.levelno == logging.ERROR
    assert bug.exc_info is not None


def test_delays_grow_to_a_bound_with_jitter() -> None:
    backoff = Backoff(first=1, longest=60)
    for failures in range(1, 2000, 7):
        full = min(60, 2.0 ** min(failures - 1, 100))
        assert full / 2 <= backoff.delay(failures) <= full
    assert len({backoff.delay(3) for _ in range(20)}) > 1


def test_a_stop_lets_what_is_running_finish_and_starts_nothing_new() -> None:
    async def main() -> None:
        started, release = asyncio.Event(), asyncio.Event()
        done: list[str] = []

        async def work(key: str) -> float:
            started.set()
            await release.wait()
            done.append(key)
            return 0.0

        queue = Queue(work, workers=1)
        queue.start()
        queue.add("running")
        queue.add("waiting")
        queue.add_after("due later", 0.0)
        await started.wait()
        stopping = asyncio.create_task(queue.stop(grace=10))
        await asyncio.sleep(0)
        queue.add("late")
        release.set()
        await stopping
        assert done == ["running"]

    asyncio.run(main())


def test_a_stop_cancels_what_outlasts_the_grace() -> None:
    async def main() -> None:
        started = asyncio.Event()
        cancelled: list[str] = []

        async def work(key: str) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(key)
                raise

        queue = Queue(work, workers=1)
        queue.start()
        queue.add("stuck")
        await started.wait()
        await queue.stop(grace=0.01)
        assert cancelled == ["stuck"]

    asyncio.run(main())
