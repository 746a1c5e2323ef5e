"""The jobs of a server as its administrators see and steer them."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry_server.config import Config
from registry_server.config.backup import Destination
from registry_server.config.scalars import format_duration
from registry_server.jobs import backup, runs
from registry_server.jobs.backup import Archive
from registry_server.jobs.occupancy import refuse_occupied
from registry_server.jobs.recurring import Job
from registry_server.jobs.runs import Run, Underway
from registry_server.serve.schedule import do
from registry_server.storage import open_storage
from registry_server.storage.contract import Aside, StorageError

logger = logging.getLogger(__name__)


class Jobs:
    """What `http.jobs` tells of, begins and ends."""

    def __init__(self, aside: Aside, config_file: Path, config: Callable[[], Config]) -> None:
        self._aside = aside
        self._config_file = config_file
        self._config = config
        self._begun: set[asyncio.Task[None]] = set()
        self._destination: Destination | None = None
        self._archive: Archive

    async def document(self) -> dict[str, Any]:
        """All jobs, and those that run, as JSON has them. Raises StorageError."""
        now = datetime.now(UTC).timestamp()
        return {
            "jobs": [await self._job(job, now) for job in Job.of(self._config())],
            "running": [_underway(one) for one in await runs.underway(self._aside)],
        }

    async def begin(self, name: str) -> bool:
        """Begin a job now; False where there is none of that name. Raises Occupied, StorageError."""
        job = self._named(name)
        if job is None:
            return False
        await refuse_occupied(self._aside)
        task = asyncio.create_task(do(job, self._config_file))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return True

    async def end(self, name: str) -> bool:
        """Have a job end soon; False where it does not run. Raises StorageError."""
        if all(one.job != name for one in await runs.underway(self._aside)):
            return False
        await runs.cancel(self._aside, name)
        return True

    def changes(self, name: str) -> bool:
        """Whether a job changes what the registry holds."""
        job = self._named(name)
        return job is not None and job.changes

    def _named(self, name: str) -> Job | None:
        return next((job for job in Job.of(self._config()) if job.name == name), None)

    async def _job(self, job: Job, now: float) -> dict[str, Any]:
        at, known = await runs.history(self._aside, job.name) or (now, ())
        wait = job.wait((at, known[0] if known else None), now) if job.when.recurs else math.inf
        when = {"interval": format_duration(job.when.interval)} if job.when.interval else {}
        if job.when.schedule:
            when = {"schedule": job.when.schedule, "timezone": job.when.timezone}
        return {
            "name": job.name,
            "when": when,
            "next": None if math.isinf(wait) else _time(now + max(wait, 0.0)),
            "runs": [_ended(run) for run in known],
            **({"kept": await self._kept()} if job.name == backup.JOB else {}),
        }

    async def _kept(self) -> list[str] | None:
        """The runs that the archive of backups has; None where it does not answer."""
        settings = self._config().backup
        assert settings is not None  # noqa: S101, else there is no such job
        if settings.destination != self._destination:
            self._destination, self._archive = settings.destination, Archive(open_storage(settings.destination))
        try:
            return await self._archive.ids()
        except StorageError as error:
            logger.warning("backup.destination does not say which runs it has: %s", error)
            return None


def _ended(run: Run) -> dict[str, Any]:
    return {
        "ended": _time(run.ended),
        "seconds": round(run.seconds, 3),
        "error": run.error,
        "result": run.result,
        "sums": _sums(run),
    }


def _underway(one: Underway) -> dict[str, Any]:
    remaining = one.remaining
    return {
        "name": one.job,
        "began": _time(one.told - one.seconds),
        "sums": _sums(one),
        "expected": None if one.expected is None else asdict(one.expected),
        "remaining_seconds": None if remaining is None else round(remaining),
    }


def _sums(told: Run | Underway) -> dict[str, dict[str, int]]:
    return {name: asdict(one) for name, one in told.sums.items()}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
