"""`registry-server scrub`: content read again and compared with its digest."""

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from pydantic import ByteSize

from registry_server.cli_jobs import explained
from registry_server.config import Config, load

if TYPE_CHECKING:
    from registry_server.jobs.runs import Outcome
    from registry_server.jobs.scrub import Scrubbed

DAMAGED: Final = 1
"""The exit code where something is damaged and could not be healed, or where the run broke off."""


@click.command(short_help="Read all content again, and mend what is damaged.")
@click.argument("config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG")
@click.option(
    "--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json: a line for each fault."
)
def scrub(config: Path, as_: str) -> None:
    """Read all content again, compare it with its digest, and mend what is damaged.

    What backup.destination has is taken from there. Where that has nothing the content goes into quarantine: clients
    are told that it is missing, and whoever pushes it again mends it. It reads at scrub.rate, so that servers that run
    meanwhile don't feel it. Ended before its time, the next run goes on where it stopped.

    \b
    Example:
      registry-server scrub config.yml

    Exit codes: 0 when all is whole or healed, 1 when something is not, or when it broke off, 2 for a configuration that
    can't be used.
    """
    settings = load(config, os.environ).config
    account = _Account(as_)
    with explained():
        asyncio.run(_scrub(settings, account))
    if as_ == "text":
        click.echo(account.sums())
    sys.exit(DAMAGED if account.counts["quarantined"] else 0)


async def _scrub(settings: Config, account: "_Account") -> None:
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.runs import noting
    from registry_server.jobs.scrub import JOB
    from registry_server.jobs.scrub import scrub as work
    from registry_server.storage import open_storage

    storage = open_storage(settings.storage)
    backup = settings.backup
    archive = None if backup is None else open_storage(backup.destination)
    async with (
        lease(storage.aside, JOB, exclusive=False) as held,
        noting(storage.aside, JOB, account.outcome),
        aclosing(work(storage, archive, rate=settings.scrub.rate, lease=held)) as events,
    ):
        async for event in events:
            account.tell(event)


@dataclass(slots=True)
class _Account:
    """What is told: a line for each fault, and the sums at the end."""

    as_: str
    counts: "Counter[str]" = field(default_factory=Counter)
    sizes: "Counter[str]" = field(default_factory=Counter)

    def tell(self, event: "Scrubbed") -> None:
        self.counts[event.state] += 1
        self.sizes[event.state] += event.size
        if event.state == "whole":
            return
        if self.as_ == "json":
            click.echo(json.dumps({"digest": str(event.digest), "size": event.size, "state": event.state}))
            return
        what = "was damaged and is healed" if event.state == "healed" else "is damaged and in quarantine; push it again"
        click.secho(f"{event.digest} {what}", fg="yellow" if event.state == "healed" else "red", err=True)

    def sums(self) -> str:
        """All in one line."""
        size = ByteSize(sum(self.sizes.values())).human_readable()
        parts = [f"{self.counts[state]} {state}" for state in ("whole", "healed", "quarantined") if self.counts[state]]
        return f"{sum(self.counts.values())} contents ({size}): {', '.join(parts) or 'nothing to read'}"

    def outcome(self) -> "Outcome":
        from registry_server.jobs.runs import Outcome, Sum

        damaged = self.counts["quarantined"]
        error = f"{damaged} contents are damaged and in quarantine" if damaged else None
        return Outcome({state: Sum(count, self.sizes[state]) for state, count in self.counts.items()}, error)
