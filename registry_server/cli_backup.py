"""`registry-server backup` and `registry-server restore`: copies of all that a registry holds, and the way back."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from registry_server.cli_copying import FORMAT, Account, size, told
from registry_server.cli_jobs import explained, opened
from registry_server.config import Backup, Bootstrap, Config, ConfigError, Destination, load

if TYPE_CHECKING:
    from registry_server.jobs.backup import Archive, Restored, Run
    from registry_server.jobs.occupancy import Lease
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
@FORMAT
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

    async def work(sides: _Sides, account: Account) -> Run:
        async with (
            lease(sides.storage.aside, JOB, exclusive=False),
            lease(sides.archive.storage.aside, JOB, exclusive=False) as held,
        ):
            made: list[Run] = []
            async with noting(sides.storage.aside, JOB, lambda: _outcome(made, account)):
                now = datetime.now(UTC)
                async for event in back_up(sides.storage, sides.metadata, sides.archive, lease=held, now=now):
                    if isinstance(event, Run):
                        made.append(event)
                    else:
                        account.tell(event)
        return made[0]

    settings = load(config, os.environ).config
    with told(as_) as account:
        made = _do(settings, account, work)
    if as_ == "json":
        click.echo(json.dumps(asdict(made), indent=2))
    else:
        click.echo(
            f"run {made.id}: {made.repositories} repositories, {made.tags} tags, {made.contents} contents "
            f"({size(made.bytes)}), of which {made.copied} ({size(made.copied_bytes)}) are new"
        )
    sys.exit(INCOMPLETE if made.problems else 0)


def _outcome(runs: "list[Run]", account: "Account") -> "Outcome":
    """Of the run that was made; before it is, how far it has come."""
    from registry_server.jobs.runs import Outcome, Sum

    for made in runs:
        error = f"{len(made.problems)} contents could not be kept" if made.problems else None
        sums = {"held": Sum(made.contents, made.bytes), "copied": Sum(made.copied, made.copied_bytes)}
        return Outcome(sums, error, made.id)
    return account.so_far()


@backup_group.command(name="list")
@_CONFIG
@FORMAT
def list_(config: Path, as_: str) -> None:
    """Show the runs there are, the newest last.

    Exit codes: 0 when each of them can be used, 1 when one can't, 2 for a configuration that can't be used.
    """
    from registry_server.jobs.backup import BackupError

    damaged: list[str] = []

    async def work(sides: _Sides, _account: Account) -> "list[Run]":
        runs = []
        for name in await sides.archive.ids():
            try:
                runs.append(await sides.archive.run(name))
            except BackupError as error:
                damaged.append(str(error))
        return runs

    settings = load(config, os.environ).config
    with told("json") as account:
        runs = _do(settings, account, work)
    if as_ == "json":
        click.echo(json.dumps([asdict(one) for one in runs], indent=2))
    else:
        _table(runs)
    for error in damaged:
        click.secho(error, fg="red", err=True)
    sys.exit(INCOMPLETE if damaged else 0)


@backup_group.command()
@_CONFIG
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--last", is_flag=True, help="Only the last run.")
@FORMAT
def verify(config: Path, run_id: str | None, last: bool, as_: str) -> None:
    """Read all that RUN has kept, or all runs, and compare it with its digests.

    Exit codes: 0 when all is whole, 1 when something is damaged or lost, 2 for a configuration that can't be used.
    """
    from registry_server.jobs import backup
    from registry_server.jobs.runs import fail

    async def work(sides: _Sides, account: Account) -> None:
        runs = [await _run(sides.archive, run_id)] if run_id or last else await sides.archive.runs()
        async with aclosing(backup.verify(sides.archive, runs)) as events:
            async for event in events:
                account.tell(event)
        if account.problems:
            error = f"{len(account.problems)} contents of the backup are damaged or lost"
            await fail(sides.storage.aside, backup.JOB, error)

    settings = load(config, os.environ).config
    with told(as_) as account:
        _do(settings, account, work)
    if as_ == "json":
        sums = {"contents": account.contents, "bytes": account.bytes, "problems": account.problems}
        click.echo(json.dumps(sums, indent=2))
    else:
        click.echo(f"{account.contents} contents ({size(account.bytes)}) are whole, {len(account.problems)} are not")
    sys.exit(INCOMPLETE if account.problems else 0)


@backup_group.command()
@_CONFIG
@click.option("-d", "--dry-run", is_flag=True, help="Remove nothing; say what would go.")
@FORMAT
def prune(config: Path, dry_run: bool, as_: str) -> None:
    """Remove the runs that backup.keep does not keep, and the contents that only they had."""
    from registry_server.jobs import backup
    from registry_server.jobs.backup import Pruned
    from registry_server.jobs.occupancy import lease

    settings = load(config, os.environ).config

    async def work(sides: _Sides, _account: Account) -> Pruned:
        async with lease(sides.archive.storage.aside, "backup prune", exclusive=False) as held:
            return await backup.prune(sides.archive, _backup(settings).keep, lease=held, dry_run=dry_run)

    with told("json") as account:
        pruned = _do(settings, account, work)
    if as_ == "json":
        runs = [one.id for one in pruned.runs]
        click.echo(json.dumps({"runs": runs, "contents": pruned.contents, "bytes": pruned.bytes}, indent=2))
        return
    for one in pruned.runs:
        click.echo(f"run {one.id} {'would go' if dry_run else 'is gone'}")
    click.echo(f"{len(pruned.runs)} runs, {pruned.contents} contents ({size(pruned.bytes)})")


@click.command(short_help="Bring back what a backup has kept.")
@_CONFIG
@click.argument("wanted", nargs=-1, metavar="[REPOSITORY[:TAG]]...")
@click.option("--run", "run_id", metavar="RUN", help="Which run; by default the last one.")
@click.option("-d", "--dry-run", is_flag=True, help="Change nothing; say what would be brought back.")
@FORMAT
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
    from registry_server.jobs.backup import BackupError, Restored
    from registry_server.jobs.occupancy import lease

    async def work(sides: _Sides, account: Account) -> Restored:
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
            return await _bring_back(sides, chosen, account, held, "restore")

    settings = load(config, os.environ).config
    with told(as_) as account:
        restored = _do(settings, account, work)
    problems = [*account.problems, *restored.differences]
    _tell_of(restored, account, as_, "would be brought back" if dry_run else _proven(problems))
    sys.exit(INCOMPLETE if problems else 0)


@click.command(short_help="Fill a new registry from a backup, once.")
@_CONFIG
@FORMAT
def bootstrap(config: Path, as_: str) -> None:
    """Bring back what bootstrap.source has kept, the last run or bootstrap.run, into a registry that is empty.

    A server does so before it serves for the first time. It can be ended at any time: it goes on with the same run. A
    registry that holds something is left as it is, and so is one that is complete.

    \b
    Example of a configuration:
      bootstrap:
        source: {filesystem: {rootdirectory: /mnt/backup}}    # or s3, gcs, azure, as in storage

    Exit codes: 0 when all that the run has kept is there, 1 when something is not, or when it broke off, 2 for a
    configuration that can't be used.
    """
    from registry_server.jobs.backup import Restored
    from registry_server.jobs.bootstrap import JOB, Origin, is_empty, origin, settle
    from registry_server.jobs.occupancy import lease

    async def work(sides: _Sides, account: Account) -> Restored | None:
        aside = sides.storage.aside
        async with lease(aside, JOB, exclusive=False) as held:
            found = await origin(aside)
            if found is None and not await is_empty(sides.metadata):
                found = await settle(aside, Origin(run=None, complete=True))
                account.complain("the registry is not empty: it is left as it is; `registry-server restore` adds to it")
            if found is not None and found.complete:
                return None
            run = await _run(sides.archive, found.run if found else _bootstrap(settings).run)
            await settle(aside, Origin(run.id, complete=False))
            restored = await _bring_back(sides, await sides.archive.index(run), account, held, JOB)
            if not _beyond(run, [*account.problems, *restored.differences]):
                await settle(aside, Origin(run.id, complete=True))
            else:
                account.incomplete = True
        return restored

    settings = load(config, os.environ).config
    with told(as_) as account:
        place = _bootstrap(settings)
        restored = _do(settings, account, work, _Place("bootstrap.source", place.source, place.keyfile))
    if restored is not None:
        _tell_of(restored, account, as_, _proven([*account.problems, *restored.differences]))
    sys.exit(INCOMPLETE if account.incomplete else 0)


async def _bring_back(
    sides: "_Sides", chosen: "Mapping[str, Holdings]", account: "Account", held: "Lease", job: str
) -> "Restored":
    from registry_server.jobs import backup
    from registry_server.jobs.backup import Restored
    from registry_server.jobs.runs import noting
    from registry_server.jobs.transfer import Done

    async with noting(sides.storage.aside, job, account.so_far):
        async for event in backup.restore(sides.archive, chosen, sides.storage, sides.metadata, lease=held):
            if isinstance(event, Restored):
                return event
            if isinstance(event, Done):
                account.problems += [f"{event.repository}: {problem}" for problem in event.problems]
            else:
                account.tell(event)
    raise AssertionError


def _beyond(run: "Run", problems: list[str]) -> list[str]:
    """What is missing and is not what the run itself could not keep: to try again would not bring that back."""
    lost = [problem.split()[0] for problem in run.problems]
    return [problem for problem in problems if not any(digest in problem for digest in lost)]


def _proven(problems: list[str]) -> str:
    return "not all as it was" if problems else "proven to be as it was"


def _tell_of(restored: "Restored", account: "Account", as_: str, verdict: str) -> None:
    problems = [*account.problems, *restored.differences]
    if as_ == "json":
        click.echo(json.dumps({**asdict(restored), "copied": account.contents, "problems": problems}, indent=2))
        return
    for difference in restored.differences:
        click.secho(difference, fg="red", err=True)
    click.echo(
        f"{restored.repositories} repositories, {restored.tags} tags, {restored.manifests} manifests: {verdict}; "
        f"{account.contents} contents ({size(account.bytes)}) copied"
    )


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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an archive is, by a key of the configuration."""

    key: str
    drivers: Destination
    keyfile: Path | None


def _do(
    settings: Config, account: Account, work: Callable[[_Sides, Account], Awaitable[T]], place: _Place | None = None
) -> T:
    """Do it, its faults said in words; ends the program with what they mean. Without `place`: `backup`'s."""
    there = place or _Place("backup.destination", _backup(settings).destination, _backup(settings).keyfile)

    async def go() -> T:
        async with _sides(settings, there) as sides:
            return await work(sides, account)

    with explained():
        return asyncio.run(go())
    raise AssertionError


@asynccontextmanager
async def _sides(settings: Config, place: _Place) -> AsyncGenerator[_Sides]:
    from registry_server.jobs.backup import Archive
    from registry_server.storage import open_storage

    local = place.drivers.filesystem
    if local is not None and not local.rootdirectory.is_dir():
        raise ConfigError(
            f"{place.key}.filesystem: {local.rootdirectory}: is no folder; create it, or mount what it is on"
        )
    async with opened(settings) as (storage, metadata):
        yield _Sides(storage, metadata, Archive(open_storage(place.drivers), _key(place)))


def _backup(settings: Config) -> Backup:
    if settings.backup is None:
        raise ConfigError(
            "backup: is missing; say where copies go: backup: {destination: {filesystem: {rootdirectory: /mnt/backup}}}"
        )
    return settings.backup


def _bootstrap(settings: Config) -> Bootstrap:
    if settings.bootstrap is None:
        raise ConfigError(
            "bootstrap: is missing; say where the backup is: "
            "bootstrap: {source: {filesystem: {rootdirectory: /mnt/backup}}}"
        )
    return settings.bootstrap


def _key(place: _Place) -> bytes | None:
    if place.keyfile is None:
        return None
    setting = f"{place.key.partition('.')[0]}.keyfile: {place.keyfile}"
    try:
        key = place.keyfile.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{setting}: {error.strerror}; name a file with the key") from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"{setting}: has less than {SHORTEST_KEY} bytes; make one: openssl rand -hex 32 > {place.keyfile}"
        )
    return key


def _table(runs: "list[Run]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Run", "Repositories", "Tags", "Contents", "Size", "New", "Problems", box=None)
    for one in runs:
        new = f"{one.copied} ({size(one.copied_bytes)})"
        numbers = (str(one.repositories), str(one.tags), str(one.contents), size(one.bytes), new)
        table.add_row(one.id, *numbers, str(len(one.problems)))
    Console(width=None if os.isatty(1) else 200).print(table)
