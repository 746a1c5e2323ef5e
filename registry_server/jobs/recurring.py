"""The jobs of a server: what they do and when they are due, as its configuration has it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from registry_server.config import Config, Recurring
from registry_server.jobs import backup, garbage, retention, runs, scrub

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
