"""Runs jobs when they are due: in processes of their own, so that no request waits for them.

When that is follows from when a job ended last, which is kept in the storage: a restart begins no interval anew, and of
several servers one is first.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn, Self

from registry_server.config import Config
from registry_server.jobs import backup, garbage, runs, scrub
from registry_server.jobs.occupancy import storage_time
from registry_server.metrics import JOB_BYTES, JOB_ENDED, JOB_SECONDS, JOB_SUCCESS, Measured
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = timedelta(minutes=1)
"""How often to look whether something is due; a hundredth of the shortest interval where that is less."""
LOWER_PRIORITY: Final = 19
"""How much the processes yield to those that answer requests (nice(2))."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be done at an interval."""

    name: str
    interval: timedelta
    """0 for never."""
    changes: bool
    """Whether it changes what the registry holds, so that it waits while that is read-only."""
    commands: Sequence[Sequence[str]]
    """Of `registry-server`, one after the other, each if the one before went well; the configuration comes last."""

    @classmethod
    def of(cls, config: Config) -> tuple[Self, ...]:
        """The jobs that a configuration has."""
        collection = config.garbagecollection
        untagged = ("--delete-untagged",) if collection.deleteuntagged else ()
        jobs = [cls(garbage.JOB, collection.interval, True, [("garbage-collect", "--quiet", *untagged)])]
        if config.backup is not None:
            jobs.append(cls(backup.JOB, config.backup.interval, False, [("backup", "run"), ("backup", "prune")]))
        jobs.append(cls(scrub.JOB, config.scrub.interval, True, [("scrub",)]))
        return tuple(jobs)


class Schedule:
    """The jobs of one server."""

    def __init__(self, aside: Aside, config_file: Path, jobs: Sequence[Job]) -> None:
        self._aside = aside
        self._config_file = config_file
        self._jobs = jobs

    async def run(self, *, read_only: Callable[[], bool], measured: Callable[[Measured], None]) -> NoReturn:
        """Do what is due, for ever; `measured` is told of the last run of each job."""
        intervals = [job.interval / 100 for job in self._jobs if job.interval]
        while True:
            try:
                for job in self._jobs:
                    if job.interval and not (job.changes and read_only()) and await self._is_due(job):
                        await self._do(job)
                measured(await self._measure())
            except StorageError as error:
                logger.warning("could not find out which jobs are due: %s", error)
            await asyncio.sleep(min([LOOK_EVERY, *intervals]).total_seconds())

    async def _is_due(self, job: Job) -> bool:
        last = await runs.last(self._aside, job.name)
        if last is None:
            await runs.begin(self._aside, job.name)
            return False
        return await storage_time(self._aside) - last[0] >= job.interval.total_seconds()

    async def _do(self, job: Job) -> None:
        for command in job.commands:
            if await self._run(job, command):
                return

    async def _run(self, job: Job, command: Sequence[str]) -> int:
        """The exit code of a command; what it says goes to the log."""
        words = [sys.executable, "-m", "registry_server", *command, str(self._config_file)]
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, LOWER_PRIORITY)
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
        for line in said.decode(errors="replace").splitlines():
            logger.log(logging.WARNING if process.returncode else logging.INFO, "%s: %s", job.name, line)
        return process.returncode or 0

    async def _measure(self) -> Measured:
        found = {job.name: await runs.last(self._aside, job.name) for job in self._jobs}
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
