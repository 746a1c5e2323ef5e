"""`registry-server garbage-collect`: removes what nothing refers to."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from pydantic import ByteSize

from registry_server.cli_jobs import explained, opened
from registry_server.config import Config, ConfigError, format_duration, load

if TYPE_CHECKING:
    from registry_server.jobs.garbage import Collected, Fate, Marked, Options
    from registry_server.jobs.occupancy import Lease
    from registry_server.jobs.runs import Outcome

INCOMPLETE: Final = 1
"""The exit code where something was kept only because a manifest can't be read, or where the run broke off."""

_WORDS: Final[dict["Fate", tuple[str, str]]] = {
    "manifest": ("manifest", "has no tag"),
    "blob": ("blob", "is in no manifest"),
    "discarded": ("content", "into the trash"),
    "purged": ("content", "removed"),
    "restored": ("content", "taken back from the trash, as something refers to it"),
}

_SUMS: Final[tuple[tuple["Fate", str], ...]] = (
    ("manifest", "manifests without a tag"),
    ("blob", "blobs without a manifest"),
    ("discarded", "contents into the trash"),
    ("purged", "contents removed"),
    ("restored", "contents taken back"),
)


@click.command("garbage-collect", short_help="Remove what nothing refers to, also while servers run.")
@click.argument("config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG")
@click.option("-d", "--dry-run", is_flag=True, help="Change nothing; say what would go.")
@click.option("-m", "--delete-untagged", is_flag=True, help="Also remove manifests that no tag leads to.")
@click.option("-q", "--quiet", is_flag=True, help="Say the sums only.")
@click.option(
    "--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json: a line for each thing."
)
def garbage_collect(config: Path, dry_run: bool, delete_untagged: bool, quiet: bool, as_: str) -> None:
    """Remove blobs that no manifest refers to, and the content that nothing refers to then.

    Servers may run, push and pull meanwhile. What nobody has pushed or asked for within garbagecollection.grace (24h)
    goes into a trash in the storage, from which whoever asks for it gets it back, and is removed for good by a run that
    comes another such time later. Where no server runs, all goes at once.

    With --delete-untagged manifests go as well to which no tag leads: neither by itself, nor as a part of an index, nor
    as a referrer, such as a signature, of what is kept.

    Of distribution's own servers nothing is known here: stop them first, or set them read-only.

    \b
    Examples:
      registry-server garbage-collect config.yml --dry-run
      registry-server garbage-collect config.yml --delete-untagged
      registry-server garbage-collect config.yml --format json | jq -s 'map(.size) | add'

    Exit codes: 0 when all is done, 1 when it broke off or a repository was left as it is because a manifest of it can't
    be read, 2 for a configuration that can't be used.
    """
    from registry_server.jobs.garbage import Options
    from registry_server.jobs.inuse import InUse

    settings = load(config, os.environ).config
    remember = settings.retention.remembers if settings.retention else timedelta(0)
    in_use = InUse.of(settings.inuse)
    options = Options(settings.garbagecollection.grace, remember, delete_untagged, in_use, dry_run)
    with explained(), _told(as_, quiet=quiet, dry_run=dry_run) as account:
        asyncio.run(_collect(settings, options, account))
    sys.exit(INCOMPLETE if account.unreadable else 0)


async def _collect(settings: Config, options: "Options", account: "_Account") -> None:
    from registry_server.jobs.garbage import JOB, Marked, collect
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.runs import noting
    from registry_server.jobs.transfer import not_imported

    async with opened(settings) as (storage, metadata):
        if await not_imported(storage, metadata):
            raise ConfigError(
                "metadata.sql: the database knows no repository, so that all that the link files lead to would be "
                "garbage; take it over first: registry-server metadata import CONFIG"
            )
        async with lease(storage.aside, JOB) as held:
            account.begin(held, options.grace)
            async with (
                nullcontext() if options.dry_run else noting(storage.aside, JOB, account.outcome),
                aclosing(collect(storage, metadata, options, lease=held)) as events,
            ):
                async for event in events:
                    if isinstance(event, Marked):
                        account.marked(event)
                    else:
                        account.collected(event)


@dataclass(slots=True)
class _Account:
    """What is told, for people: a line for each thing that goes, and sums at the end."""

    quiet: bool
    dry_run: bool
    unreadable: bool = False
    repositories: int = 0
    manifests: int = 0
    counts: "Counter[Fate]" = field(default_factory=Counter)
    sizes: "Counter[Fate]" = field(default_factory=Counter)

    def begin(self, lease: "Lease", grace: timedelta) -> None:
        if not lease.exclusive:
            self.say(f"a server uses this storage: what was pushed or asked for within {format_duration(grace)} stays")

    def marked(self, event: "Marked") -> None:
        self.repositories += 1
        self.manifests += event.manifests
        for digest in event.unreadable:
            self.unreadable = True
            self.say(f"{event.repository}: manifest {digest} can't be read, so this repository keeps all it has", "red")

    def collected(self, event: "Collected") -> None:
        self.counts[event.fate] += 1
        self.sizes[event.fate] += event.size
        if not self.quiet:
            what, why = _WORDS[event.fate]
            whose = f"{event.repository}: " if event.repository else ""
            click.echo(f"{whose}{what} {event.digest} ({ByteSize(event.size).human_readable()}) {why}")

    def outcome(self) -> "Outcome":
        from registry_server.jobs.runs import Outcome, Sum

        return Outcome({fate: Sum(count, self.sizes[fate]) for fate, count in self.counts.items()})

    def say(self, text: str, colour: str | None = None) -> None:
        click.secho(text, fg=colour, err=True)

    def sums(self) -> str:
        """All that has gone, in one line."""
        parts = [f"{self.counts[fate]} {words}{self._size(fate)}" for fate, words in _SUMS if self.counts[fate]]
        would = "would go: " if self.dry_run else ""
        went = "; ".join(parts) or "no garbage"
        return f"{self.repositories} repositories with {self.manifests} manifests: {would}{went}"

    def _size(self, fate: "Fate") -> str:
        return (
            f" ({ByteSize(self.sizes[fate]).human_readable()})" if fate in ("discarded", "purged", "restored") else ""
        )


class _JSONLines(_Account):
    """For programs: a line for each thing that goes, and one for each manifest that can't be read."""

    def marked(self, event: "Marked") -> None:
        for digest in event.unreadable:
            self.unreadable = True
            click.echo(json.dumps({"fate": "unreadable", "digest": str(digest), "repository": event.repository}))

    def collected(self, event: "Collected") -> None:
        self.counts[event.fate] += 1
        self.sizes[event.fate] += event.size
        click.echo(
            json.dumps(
                {
                    "fate": event.fate,
                    "digest": str(event.digest),
                    "size": event.size,
                    "repository": event.repository or None,
                }
            )
        )


@contextmanager
def _told(as_: str, *, quiet: bool, dry_run: bool) -> Iterator[_Account]:
    if as_ == "json":
        yield _JSONLines(quiet=quiet, dry_run=dry_run)
        return
    if not sys.stderr.isatty():
        account = _Account(quiet, dry_run)
        yield account
    else:
        with _status() as account:
            account.quiet, account.dry_run = quiet, dry_run
            yield account
    account.say(account.sums())


@contextmanager
def _status() -> Iterator[_Account]:
    """At a terminal the sums are shown as they grow."""
    from rich.console import Console

    with Console(stderr=True).status("") as status:

        class Shown(_Account):
            def marked(self, event: "Marked") -> None:
                super().marked(event)
                status.update(f"{event.repository} · {self.sums()}")

            def collected(self, event: "Collected") -> None:
                super().collected(event)
                status.update(self.sums())

        yield Shown(quiet=True, dry_run=False)
