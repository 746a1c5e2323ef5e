"""`registry-server backup` and `registry-server restore`: copies of all that a registry holds, and the way back."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from pydantic import ByteSize

from registry_server.cli_jobs import explained
from registry_server.config import Backup, Config, ConfigError, load

if TYPE_CHECKING:
    from registry_server.jobs.backup import Archive, Copied, Planned, Problem, Run
    from registry_server.jobs.runs import Outcome
    from registry_server.metadata.contract import Holdings, Metadata
    from registry_server.storage.contract import Storage

T = TypeVar("T")

INCOMPLETE: Final = 1
"""The exit code where something could not be kept or brought back, or where the work broke off."""
SHORTEST_KEY: Final = 16
"""Bytes of a key."""

_CONFIG = click.argument(
    "config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG"
)
_FORMAT = click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group(name="backup")
def backup_group() -> None:
    """Keep copies of all that a registry holds where backup.destination says.

    A server may run, push and delete meanwhile. Each run copies only what no run before has copied.

    \b
    Example of a configuration:
      backup:
        destination: {filesystem: {rootdirectory: /mnt/backup}}    # or s3, gcs, azure, as in storage
        keep: {last: 3, daily: 7, weekly: 4}                       # for backup prune
    """


@backup_group.command()
@_CONFIG
@_FORMAT
def run(config: Path, as_: str) -> None:
    """Make a backup now.

    It can be ended at any time: the runs before stay as they are, and the next run goes on where this one stopped.

    \b
    Example:
      registry-server backup run config.yml

    Exit codes: 0 when all was kept, 1 when the registry itself has lost something, or when it broke off, 2 for a
    configuration that can't be used.
    """
    from registry_server.jobs.backup import JOB, Run, back_up
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.runs import noting

    async def work(sides: _Sides, account: _Account) -> Run:
        async with (
            lease(sides.storage.aside, JOB, exclusive=False),
            lease(sides.archive.storage.aside, JOB, exclusive=False) as held,
        ):
            made: list[Run] = []
            async with noting(sides.storage.aside, JOB, lambda: _outcome(made)):
                now = datetime.now(UTC)
                async for event in back_up(sides.storage, sides.metadata, sides.archive, lease=held, now=now):
                    if isinstance(event, Run):
                        made.append(event)
                    else:
                        account.tell(event)
        return made[0]

    settings = load(config, os.environ).config
    with _told(as_) as account:
        made = _do(settings, account, work)
    if as_ == "json":
        click.echo(json.dumps(asdict(made), indent=2))
    else:
        click.echo(
            f"run {made.id}: {made.repositories} repositories, {made.tags} tags, {made.contents} contents "
            f"({_size(made.bytes)}), of which {made.copied} ({_size(made.copied_bytes)}) are new"
        )
    sys.exit(INCOMPLETE if made.problems else 0)


def _outcome(runs: "list[Run]") -> "Outcome":
    """Of the run that was made; nothing before it is."""
    from registry_server.jobs.runs import Outcome, Sum

    for made in runs:
        error = f"{len(made.problems)} contents could not be kept" if made.problems else None
        sums = {"held": Sum(made.contents, made.bytes), "copied": Sum(made.copied, made.copied_bytes)}
        return Outcome(sums, error)
    return Outcome()


@backup_group.command(name="list")
@_CONFIG
@_FORMAT
def list_(config: Path, as_: str) -> None:
    """Show the runs there are, the newest last."""

    async def work(sides: _Sides, _account: _Account) -> "list[Run]":
        return await sides.archive.runs()

    settings = load(config, os.environ).config
    with _told("json") as account:
        runs = _do(settings, account, work)
    if as_ == "json":
        click.echo(json.dumps([asdict(one) for one in runs], indent=2))
    else:
        _table(runs)


@backup_group.command()
@_CONFIG
@click.argument("run_id", required=False, metavar="[RUN]")
@_FORMAT
def verify(config: Path, run_id: str | None, as_: str) -> None:
    """Read all that RUN has kept, or all runs, and compare it with its digests.

    Exit codes: 0 when all is whole, 1 when something is damaged or lost, 2 for a configuration that can't be used.
    """
    from registry_server.jobs import backup

    async def work(sides: _Sides, account: _Account) -> None:
        runs = [await sides.archive.run(run_id)] if run_id else await sides.archive.runs()
        async with aclosing(backup.verify(sides.archive, runs)) as events:
            async for event in events:
                account.tell(event)

    settings = load(config, os.environ).config
    with _told(as_) as account:
        _do(settings, account, work)
    if as_ == "json":
        sums = {"contents": account.contents, "bytes": account.bytes, "problems": account.problems}
        click.echo(json.dumps(sums, indent=2))
    else:
        click.echo(f"{account.contents} contents ({_size(account.bytes)}) are whole, {len(account.problems)} are not")
    sys.exit(INCOMPLETE if account.problems else 0)


@backup_group.command()
@_CONFIG
@click.option("-d", "--dry-run", is_flag=True, help="Remove nothing; say what would go.")
@_FORMAT
def prune(config: Path, dry_run: bool, as_: str) -> None:
    """Remove the runs that backup.keep does not keep, and the contents that only they had."""
    from registry_server.jobs import backup
    from registry_server.jobs.backup import Pruned
    from registry_server.jobs.occupancy import lease

    settings = load(config, os.environ).config

    async def work(sides: _Sides, _account: _Account) -> Pruned:
        async with lease(sides.archive.storage.aside, "backup prune", exclusive=False) as held:
            return await backup.prune(sides.archive, _backup(settings).keep, lease=held, dry_run=dry_run)

    with _told("json") as account:
        pruned = _do(settings, account, work)
    if as_ == "json":
        runs = [one.id for one in pruned.runs]
        click.echo(json.dumps({"runs": runs, "contents": pruned.contents, "bytes": pruned.bytes}, indent=2))
        return
    for one in pruned.runs:
        click.echo(f"run {one.id} {'would go' if dry_run else 'is gone'}")
    click.echo(f"{len(pruned.runs)} runs, {pruned.contents} contents ({_size(pruned.bytes)})")


@click.command(short_help="Bring back what a backup has kept.")
@_CONFIG
@click.argument("wanted", nargs=-1, metavar="[REPOSITORY[:TAG]]...")
@click.option("--run", "run_id", metavar="RUN", help="Which run; by default the last one.")
@click.option("-d", "--dry-run", is_flag=True, help="Change nothing; say what would be brought back.")
@_FORMAT
def restore(config: Path, wanted: tuple[str, ...], run_id: str | None, dry_run: bool, as_: str) -> None:
    """Bring a registry back to what it held, from backup.destination into the storage and the metadata of CONFIG.

    REPOSITORY may have wildcards, as in policies: team/**. Without any all repositories are brought back. What they
    hold beyond that stays; a tag that has moved since moves back. Whatever drivers the registry was on, others will do.

    A server may run meanwhile. It can be ended at any time and run again: it goes on where it stopped. At the end all
    is compared with the run, digest by digest; content that was there already is read, and mended if it is damaged.

    \b
    Examples:
      registry-server restore config.yml
      registry-server restore config.yml --run 20261126T020000Z 'team/**' other:v1

    Exit codes: 0 when all is as it was, 1 when something is not, 2 for a configuration that can't be used.
    """
    from registry_server.jobs import backup
    from registry_server.jobs.backup import BackupError, Restored
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.transfer import Done

    async def work(sides: _Sides, account: _Account) -> Restored:
        run = await _run(sides.archive, run_id)
        chosen = await _chosen(sides.archive, await sides.archive.index(run), wanted)
        if wanted and not chosen:
            raise BackupError(f"run {run.id} has nothing of that; `registry-server backup list` shows the others")
        if dry_run:
            tags, manifests = (
                sum(len(getattr(one, kind)) for one in chosen.values()) for kind in ("tags", "manifests")
            )
            return Restored(len(chosen), tags, manifests)
        async with lease(sides.storage.aside, "restore", exclusive=False) as held:
            events = backup.restore(sides.archive, chosen, sides.storage, sides.metadata, lease=held)
            async for event in events:
                if isinstance(event, Restored):
                    return event
                if isinstance(event, Done):
                    account.problems += [f"{event.repository}: {problem}" for problem in event.problems]
                else:
                    account.tell(event)
        raise AssertionError

    settings = load(config, os.environ).config
    with _told(as_) as account:
        restored = _do(settings, account, work)
    problems = [*account.problems, *restored.differences]
    if as_ == "json":
        click.echo(json.dumps({**asdict(restored), "copied": account.contents, "problems": problems}, indent=2))
    else:
        for difference in restored.differences:
            click.secho(difference, fg="red", err=True)
        proven = "would be brought back" if dry_run else "not all as it was" if problems else "proven to be as it was"
        click.echo(
            f"{restored.repositories} repositories, {restored.tags} tags, {restored.manifests} manifests: {proven}; "
            f"{account.contents} contents ({_size(account.bytes)}) copied"
        )
    sys.exit(INCOMPLETE if problems else 0)


async def _run(archive: "Archive", run_id: str | None) -> "Run":
    from registry_server.jobs.backup import BackupError

    if run_id is not None:
        return await archive.run(run_id)
    ids = await archive.ids()
    if not ids:
        raise BackupError("there is no run yet; make one with `registry-server backup run`")
    return await archive.run(ids[-1])


async def _chosen(
    archive: "Archive", index: "Mapping[str, Holdings]", wanted: tuple[str, ...]
) -> "dict[str, Holdings]":
    """What was asked for of a run: whole repositories, or some of their tags."""
    from registry_server.jobs.backup import only_tags, select

    whole = [one for one in wanted if ":" not in one]
    chosen = select(index, whole) if whole or not wanted else {}
    tags: dict[str, list[str]] = {}
    for repository, tag in (one.split(":", 1) for one in wanted if ":" in one):
        for name in select(index, [repository]):
            tags.setdefault(name, []).append(tag)
    for name, some in tags.items():
        held = await only_tags(archive, index[name], some)
        if name not in chosen and held.tags:
            chosen[name] = held
    return chosen


@dataclass(frozen=True, slots=True)
class _Sides:
    """The registry, and the archive of its backups."""

    storage: "Storage"
    metadata: "Metadata"
    archive: "Archive"


@dataclass(slots=True)
class _Account:
    """What has been done so far."""

    contents: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def tell(self, event: "Planned | Copied | Problem") -> None:
        from registry_server.jobs.backup import Copied, Planned, Problem

        match event:
            case Planned():
                self.plan(event)
            case Copied():
                self.contents += 1
                self.bytes += event.size
                self.advance(event.size)
            case Problem():
                self.problems.append(event.text)
                self.complain(event.text)

    def plan(self, planned: "Planned") -> None:
        """Say what there is to do."""

    def advance(self, size: int) -> None:
        """Say how far it is."""

    def complain(self, text: str) -> None:
        click.secho(text, fg="red", err=True)


class _Bar(_Account):
    """At a terminal: a bar of the bytes, with the time that is left."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress
        self._task: Any = None

    def plan(self, planned: "Planned") -> None:
        self._task = self._progress.add_task(f"{planned.contents} contents", total=planned.bytes)

    def advance(self, size: int) -> None:
        self._progress.update(self._task, advance=size)


@contextmanager
def _told(as_: str) -> Iterator[_Account]:
    if as_ == "json" or not sys.stderr.isatty():
        yield _Account()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress)


def _do(settings: Config, account: _Account, work: Callable[[_Sides, _Account], Awaitable[T]]) -> T:
    """Do it, its faults said in words; ends the program with what they mean."""

    async def go() -> T:
        async with _sides(settings) as sides:
            return await work(sides, account)

    with explained():
        return asyncio.run(go())
    raise AssertionError


@asynccontextmanager
async def _sides(settings: Config) -> AsyncGenerator[_Sides]:
    from registry_server.jobs.backup import Archive
    from registry_server.metadata.drivers import open_metadata, prepare
    from registry_server.registry.manifest import understand
    from registry_server.storage import open_storage

    backup = _backup(settings)
    local = backup.destination.filesystem
    if local is not None and not local.rootdirectory.is_dir():
        folder = local.rootdirectory
        raise ConfigError(f"backup.destination.filesystem: {folder}: is no folder; create it, or mount what it is on")
    prepare(settings.metadata)
    storage = open_storage(settings.storage)
    archive = open_storage(backup.destination)
    metadata = open_metadata(settings.metadata, storage, understand)
    try:
        yield _Sides(storage, metadata, Archive(archive, _key(backup)))
    finally:
        await metadata.close()


def _backup(settings: Config) -> Backup:
    if settings.backup is None:
        raise ConfigError(
            "backup: is missing; say where copies go: backup: {destination: {filesystem: {rootdirectory: /mnt/backup}}}"
        )
    return settings.backup


def _key(backup: Backup) -> bytes | None:
    if backup.keyfile is None:
        return None
    try:
        key = backup.keyfile.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"backup.keyfile: {backup.keyfile}: {error.strerror}; name a file with the key") from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"backup.keyfile: {backup.keyfile}: has less than {SHORTEST_KEY} bytes; make one: "
            f"openssl rand -hex 32 > {backup.keyfile}"
        )
    return key


def _table(runs: "list[Run]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Run", "Repositories", "Tags", "Contents", "Size", "New", "Problems", box=None)
    for one in runs:
        new = f"{one.copied} ({_size(one.copied_bytes)})"
        numbers = (str(one.repositories), str(one.tags), str(one.contents), _size(one.bytes), new)
        table.add_row(one.id, *numbers, str(len(one.problems)))
    Console(width=None if os.isatty(1) else 200).print(table)


def _size(amount: int) -> str:
    return ByteSize(amount).human_readable()
