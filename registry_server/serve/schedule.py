"""Runs jobs when they are due: in processes of their own, so that no request waits for them.

When that is follows from when a job ended last, which is kept in the storage: a restart begins no interval anew, and of
several servers one is first.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn, Self

from registry_server.config import Config, Recurring
from registry_server.jobs import backup, garbage, retention, runs, scrub
from registry_server.jobs.occupancy import storage_time
from registry_server.metrics import JOB_BYTES, JOB_ENDED, JOB_SECONDS, JOB_SUCCESS, Measured
from registry_server.serve.command import registry_server
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(minutes=1)
"""How often to look whether something is due, at the least; a hundredth of an interval that is shorter."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something that recurs."""

    name: str
    when: Recurring
    changes: bool
    """Whether it changes what the registry holds, so that it waits while that is read-only."""
    commands: Sequence[Sequence[str]]
    """Of `registry-server`, one after the other, each if the one before went well; the configuration comes last."""
    immediate: bool = False
    """Whether the first time is now."""

    @classmethod
    def of(cls, config: Config) -> tuple[Self, ...]:
        """The jobs that a configuration has."""
        collection = config.garbagecollection
        untagged = ("--delete-untagged",) if collection.deleteuntagged else ()
        jobs = [cls(garbage.JOB, collection, True, [("garbage-collect", "--quiet", *untagged)])]
        if config.retention is not None:
            jobs.insert(0, cls(retention.JOB, config.retention, True, [("retention", "--quiet")]))
        if config.backup is not None:
            verified = [("backup", "verify", "--last")] if config.backup.verify else []
            commands = [("backup", "run"), *verified, ("backup", "prune")]
            jobs.append(cls(backup.JOB, config.backup, False, commands, config.backup.immediate))
        jobs.append(cls(scrub.JOB, config.scrub, True, [("scrub",)]))
        return tuple(jobs)

    def wait(self, last: tuple[float, runs.Run | None], now: float) -> float:
        """Seconds until it is due that ended, or began to be counted, `last`; 0 or less if it is."""
        if self.immediate and last[1] is None:
            return 0.0
        due = self.when.after(datetime.fromtimestamp(last[0], UTC))
        return math.inf if due is None else due.timestamp() - now

    @property
    def patience(self) -> float:
        """Seconds until the next look at it, or the next try, at the most."""
        return min(LOOK_EVERY, self.when.interval / 100 or LOOK_EVERY).total_seconds()


class Schedule:
    """The jobs of one server."""

    def __init__(self, aside: Aside, config_file: Path, jobs: Callable[[], Sequence[Job]]) -> None:
        """`jobs` may give others each time."""
        self._aside = aside
        self._config_file = config_file
        self._jobs = jobs
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have it look at what `jobs` gives by now."""
        self._changed.set()

    async def run(self, *, read_only: Callable[[], bool], measured: Callable[[Measured], None]) -> NoReturn:
        """Do what is due, for ever; `measured` is told of the last run of each job."""
        while True:
            pause = LOOK_EVERY.total_seconds()
            self._changed.clear()
            try:
                for job in self._jobs():
                    if job.when.recurs:
                        waits = job.changes and read_only()
                        pause = min(pause, job.patience if waits else await self._take_turn(job))
                measured(await self._measure())
            except StorageError as error:
                logger.warning("could not find out which jobs are due: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _take_turn(self, job: Job) -> float:
        """Do it if it is due; returns the seconds until the next look."""
        if (wait := await self._wait(job)) > 0:
            return min(wait, job.patience)
        await self._do(job)
        return job.patience

    async def _wait(self, job: Job) -> float:
        last = await runs.last(self._aside, job.name)
        now = await storage_time(self._aside)
        if last is None:
            await runs.begin(self._aside, job.name)
        return job.wait(last or (now, None), now)

    async def _do(self, job: Job) -> None:
        for command in job.commands:
            if not await registry_server(job.name, command, self._config_file):
                return

    async def _measure(self) -> Measured:
        found = {job.name: await runs.last(self._aside, job.name) for job in self._jobs()}
        known = {name: (last[0], last[1]) for name, last in found.items() if last is not None and last[1] is not None}
        return {
            JOB_ENDED: {(name,): ended for name, (ended, _) in known.items()},
            JOB_SECONDS: {(name,): run.seconds for name, (_, run) in known.items()},
            JOB_SUCCESS: {(name,): 0 if run.error else 1 for name, (_, run) in known.items()},
            JOB_BYTES: {
                (name, what): one.bytes
                for name, (_, run) in known.items()
                for what, one in run.sums.items()
                if one.bytes
            },
        }
