"""Runs jobs when they are due: in processes of their own, so that no request waits for them.

When that is follows from when a job ended last, which is kept in the storage: a restart begins no interval anew, and of
several servers one is first.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from registry_server.jobs import runs
from registry_server.jobs.occupancy import storage_time
from registry_server.jobs.recurring import LOOK_EVERY, Job
from registry_server.metrics import (
    JOB_BYTES,
    JOB_ENDED,
    JOB_PERIOD,
    JOB_REMAINING,
    JOB_RUNNING,
    JOB_SECONDS,
    JOB_SUCCEEDED,
    JOB_SUCCESS,
    Measured,
)
from registry_server.serve.command import registry_server
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

MEASURE_EVERY: Final = 30.0
"""Seconds between looks at how jobs go, whoever has begun them."""


class Schedule:
    """The jobs of one server."""

    def __init__(self, aside: Aside, config_file: Path, jobs: Callable[[], Sequence[Job]]) -> None:
        """`jobs` may give others each time."""
        self._aside = aside
        self._config_file = config_file
        self._jobs = jobs
        self._changed = asyncio.Event()
        self._done = asyncio.Event()

    def wake(self) -> None:
        """Have it look at what `jobs` gives by now."""
        self._changed.set()

    async def run(self, *, read_only: Callable[[], bool]) -> NoReturn:
        """Do what is due, for ever."""
        while True:
            pause = LOOK_EVERY.total_seconds()
            self._changed.clear()
            try:
                for job in self._jobs():
                    if job.when.recurs:
                        waits = job.changes and read_only()
                        pause = min(pause, job.patience if waits else await self._take_turn(job))
            except StorageError as error:
                logger.warning("could not find out which jobs are due: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def measure(self, measured: Callable[[Measured], None]) -> NoReturn:
        """Tell of the last run of each job, and of those that go on, for ever."""
        while True:
            self._done.clear()
            with suppress(StorageError):  # health says so
                measured(await self._measure())
            with suppress(TimeoutError):
                async with asyncio.timeout(MEASURE_EVERY):
                    await self._done.wait()

    async def _take_turn(self, job: Job) -> float:
        """Do it if it is due; returns the seconds until the next look."""
        if (wait := await self._wait(job)) > 0:
            return min(wait, job.patience)
        await do(job, self._config_file)
        self._done.set()
        return job.patience

    async def _wait(self, job: Job) -> float:
        last = await runs.last(self._aside, job.name)
        now = await storage_time(self._aside)
        if last is None:
            await runs.begin(self._aside, job.name)
        return job.wait(last or (now, None), now)

    async def _measure(self) -> Measured:
        jobs = {job.name: job for job in self._jobs()}
        found = {name: await runs.history(self._aside, name) for name in jobs}
        known = {name: history for name, history in found.items() if history is not None}
        last = {name: ended[0] for name, (_, ended) in known.items() if ended}
        going = {one.job: one for one in await runs.underway(self._aside)}
        periods = {name: job.when.period for name, job in jobs.items()}
        return {
            JOB_ENDED: {(name,): run.ended for name, run in last.items()},
            JOB_SUCCEEDED: {(name,): _succeeded(at, ended) for name, (at, ended) in known.items()},
            JOB_PERIOD: {(name,): period.total_seconds() for name, period in periods.items() if period is not None},
            JOB_SECONDS: {(name,): run.seconds for name, run in last.items()},
            JOB_SUCCESS: {(name,): 0 if run.error else 1 for name, run in last.items()},
            JOB_BYTES: {
                (name, what): one.bytes for name, run in last.items() for what, one in run.sums.items() if one.bytes
            },
            JOB_RUNNING: {(name,): int(name in going) for name in jobs},
            JOB_REMAINING: {(name,): one.remaining for name, one in going.items() if one.remaining is not None},
        }


def _succeeded(begun: float, ended: Sequence[runs.Run]) -> float:
    """When the last run ended that came to a good end; else since when, at the least, there was none."""
    successes = [run.ended for run in ended if run.error is None]
    return max(successes) if successes else min((run.ended for run in ended), default=begun)


async def do(job: Job, config_file: Path) -> None:
    """Do a job now, up to its first command that does not go well."""
    for command in job.commands:
        if not await registry_server(job.name, command, config_file):
            return
