"""`registry-server retention`: takes away the tags that rules let go."""

import asyncio
import json
import os
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_server.cli_jobs import explained, opened
from registry_server.config import Config, ConfigError, Retention, load

if TYPE_CHECKING:
    from registry_server.jobs.retention import Judged
    from registry_server.jobs.runs import Outcome


@click.command(short_help="Take away the tags that no rule keeps.")
@click.argument("config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG")
@click.option("-d", "--dry-run", is_flag=True, help="Change nothing; say what would go.")
@click.option("-a", "--all", "all_", is_flag=True, help="Also name the tags that stay, and why.")
@click.option("-q", "--quiet", is_flag=True, help="Say the sums only.")
@click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json: a line for each tag.")
def retention(config: Path, dry_run: bool, all_: bool, quiet: bool, as_: str) -> None:
    """Take away the tags that retention.rules cover and none of them keeps. Servers may run meanwhile.

    A tag that is pushed again in this moment stays; so do immutable tags, and signatures whose image is there.
    Manifests are not touched: garbage-collect --delete-untagged removes those that no tag leads to any more.

    \b
    Example of a configuration:
      retention:
        rules:
          - repositories: ["team/**"]
            exclude: [latest, stable]
            keep: {last: 10, pulledwithin: 720h, patches: 1}    # whatever one of them keeps stays

    \b
    Examples:
      registry-server retention config.yml --dry-run --all
      registry-server retention config.yml

    Exit codes: 0 when all is done, 1 when it broke off, 2 for a configuration that can't be used.
    """
    settings = load(config, os.environ).config
    if settings.retention is None:
        raise ConfigError("retention: is missing; say which tags stay: see registry-server retention --help")
    account = _Account(as_=as_, all_=all_, quiet=quiet, dry_run=dry_run)
    with explained():
        asyncio.run(_retain(settings, settings.retention, account))
    if as_ == "text":
        click.echo(account.sums())


async def _retain(settings: Config, rules: Retention, account: "_Account") -> None:
    from registry_server.auth.immutable import TagRules
    from registry_server.jobs.inuse import InUse
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.retention import JOB, Judged, retain
    from registry_server.jobs.runs import noting

    immutable = TagRules.from_config(settings).immutable
    async with opened(settings) as (storage, metadata), lease(storage.aside, JOB, exclusive=False) as held:
        events = retain(
            storage,
            metadata,
            rules,
            in_use=InUse.of(settings.inuse),
            immutable=immutable,
            grace=settings.garbagecollection.grace,
            lease=held,
            dry_run=account.dry_run,
        )
        async with nullcontext() if account.dry_run else noting(storage.aside, JOB, account.outcome), aclosing(events):
            async for event in events:
                if isinstance(event, Judged):
                    account.tell(event)
                else:
                    account.repositories += 1
                    account.tags += event.tags


@dataclass(slots=True)
class _Account:
    """What is told: a line for each tag that goes, and the sums at the end."""

    as_: str
    all_: bool
    quiet: bool
    dry_run: bool
    repositories: int = 0
    tags: int = 0
    gone: int = 0

    def tell(self, one: "Judged") -> None:
        self.gone += one.goes
        if self.quiet or not (one.goes or self.all_):
            return
        if self.as_ == "json":
            line = {"repository": one.repository, "tag": one.tag, "digest": str(one.digest)}
            click.echo(json.dumps({**line, "goes": one.goes, "why": one.why}))
        else:
            click.secho(
                f"{one.repository}:{one.tag} {'goes' if one.goes else 'stays'}: {one.why}",
                fg="yellow" if one.goes else None,
            )

    def sums(self) -> str:
        """All in one line."""
        verb = "would go" if self.dry_run else "are gone"
        return f"{self.repositories} repositories with {self.tags} tags: {self.gone} {verb}"

    def outcome(self) -> "Outcome":
        from registry_server.jobs.runs import Outcome, Sum

        return Outcome({"untagged": Sum(self.gone)})
