"""`registry-server migrate`: another storage or metadata driver for a registry that goes on serving."""

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_server.cli_copying import FORMAT, Account, size, told
from registry_server.cli_jobs import explained, opened
from registry_server.config import Config, ConfigError
from registry_server.config.loader import load
from registry_server.config.model import same_place

if TYPE_CHECKING:
    from registry_server.jobs.migrate import Migrated, Place

INCOMPLETE = 1
"""The exit code where something differs."""


@click.command(short_help="Move a registry to another storage or database.")
@click.argument("old", type=click.Path(dir_okay=False, path_type=Path), metavar="OLD")
@click.argument("new", type=click.Path(dir_okay=False, path_type=Path), metavar="NEW")
@FORMAT
def migrate(old: Path, new: Path, as_: str) -> None:
    """Move all that the registry of configuration OLD holds to where configuration NEW keeps it.

    The server on OLD goes on; none may run on NEW. What is copied is compared with its digest, and not copied again, so
    that a second run takes as long as what has changed since. It can be ended at any time and run again.

    \b
    1. registry-server migrate old.yml new.yml      beside the server: most of it
    2. in old.yml set storage.maintenance.readonly: {enabled: true}; the server follows it, and pulls go on
    3. registry-server migrate old.yml new.yml      the rest; ends with 0 where nothing differs
    4. start the server with new.yml, and stop the one with old.yml

    Exit codes: 0 when nothing differs, 1 when something does, such as what was pushed meanwhile, or when it broke off,
    2 for configurations that can't be used.
    """
    settings = [load(one, os.environ).config for one in (old, new)]
    with told(as_) as account, explained():
        migrated = asyncio.run(_migrate(settings[0], settings[1], account))
    problems = [*account.problems, *migrated.differences]
    if as_ == "json":
        click.echo(json.dumps({**asdict(migrated), "copied": account.contents, "problems": account.problems}, indent=2))
    else:
        for difference in migrated.differences:
            click.secho(difference, fg="yellow", err=True)
        verdict = f"{len(problems)} differences are left; run it again" if problems else "nothing differs"
        click.echo(
            f"{migrated.repositories} repositories, {migrated.tags} tags, {migrated.manifests} manifests; "
            f"{account.contents} contents ({size(account.bytes)}) copied: {verdict}"
        )
    sys.exit(INCOMPLETE if problems else 0)


async def _migrate(old: Config, new: Config, account: Account) -> "Migrated":
    from registry_server.jobs.migrate import JOB, Migrated, Place, migrate
    from registry_server.jobs.occupancy import lease
    from registry_server.jobs.runs import noting

    in_place = same_place(old.storage, new.storage)
    if in_place and old.metadata == new.metadata:
        raise ConfigError("both configurations name the same storage and the same metadata: there is nothing to move")
    async with AsyncExitStack() as stack:
        source = Place(*await stack.enter_async_context(opened(old)))
        target = Place(*await stack.enter_async_context(opened(new)))
        held = await stack.enter_async_context(lease(source.storage.aside, JOB, exclusive=False))
        if not in_place:
            await _refuse_server(target)
            await stack.enter_async_context(lease(target.storage.aside, JOB, exclusive=False))
        await stack.enter_async_context(noting(source.storage.aside, JOB, account.so_far))
        async for event in migrate(source, target, lease=held):
            if isinstance(event, Migrated):
                return event
            account.tell(event)
    raise AssertionError


async def _refuse_server(target: "Place") -> None:
    from registry_server.jobs.occupancy import servers

    if await servers(target.storage.aside):
        raise ConfigError("a server runs on the new place already: what was pushed there would be taken away; stop it")
