"""`registry-server metadata`: between distribution's link files and a database, either way."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from registry_server.config import Config, ConfigError, load

if TYPE_CHECKING:
    from registry_server.jobs.transfer import Done
    from registry_server.metadata.contract import Metadata
    from registry_server.storage.contract import Storage

DIFFERENT = 1
"""The exit code where something differs, or could not be taken over."""

_CONFIG = click.argument(
    "config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG"
)
_FORMAT = click.option(
    "--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json: a line for each repository."
)
_PRUNE = click.option("--prune", is_flag=True, help="Also take away what only the target holds.")


@click.group(name="metadata")
def metadata_group() -> None:
    """Move metadata between link files and a database, and compare them.

    CONFIG names the database by metadata.sql; the link files are those in its storage. Content stays where it is.
    """


@metadata_group.command()
@_CONFIG
def migrate(config: Path) -> None:
    """Bring the schema of the database up to date.

    `serve` does so by itself, unless metadata.sql.migrate is manual. Servers that run go on meanwhile.

    \b
    Example:
      registry-server metadata migrate /etc/regatta/config.yml
    """
    from registry_server.metadata.drivers import prepare

    settings = _load(config)
    assert settings.metadata.sql is not None  # noqa: S101  (it was looked for)
    automatic = settings.metadata.sql.model_copy(update={"migrate": "auto"})
    prepare(settings.metadata.model_copy(update={"sql": automatic}))
    click.echo("the schema is up to date", err=True)


@metadata_group.command(name="import")
@_CONFIG
@_PRUNE
@_FORMAT
def import_(config: Path, prune: bool, as_: str) -> None:
    """Put into the database what the link files say.

    What the database lacks is added, and its tags are moved to where the link files have them; only what has its
    content in storage is taken. It can be ended at any time and run again: it goes on where it stopped.

    A server on link files may run meanwhile. What is pushed or deleted after a repository was read is missed, so run it
    again with --prune once that server is stopped or read-only: it takes over the rest. No server on the database may
    run: tags that were pushed to it would be moved back.

    \b
    Examples:
      registry-server metadata import config.yml             # beside the server on link files: most of it
      registry-server metadata import config.yml --prune     # when it is stopped: the rest
      registry-server metadata check config.yml              # nothing differs; start the server on the database

    Exit codes: 0 when all was taken over, 1 when something could not be, 2 for a configuration that can't be used.
    """
    _transfer(config, as_, prune=prune, to_database=True)


@metadata_group.command()
@_CONFIG
@_PRUNE
@_FORMAT
def export(config: Path, prune: bool, as_: str) -> None:
    """Write what the database says as link files, which distribution reads as well.

    A server on the database may run meanwhile; as with import, run it again with --prune once it is stopped or
    read-only. No server on the link files may run.

    \b
    Example:
      registry-server metadata export config.yml --prune

    Exit codes: 0 when all was written, 1 when something could not be, 2 for a configuration that can't be used.
    """
    _transfer(config, as_, prune=prune, to_database=False)


@metadata_group.command()
@_CONFIG
@_FORMAT
def check(config: Path, as_: str) -> None:
    """Say what differs between the link files and the database.

    Both are read only. What is pushed meanwhile may be shown as a difference, so stop the servers, or set them
    read-only, for an answer that counts.

    \b
    Examples:
      registry-server metadata check config.yml
      registry-server metadata check config.yml --format json | jq .differences

    Exit codes: 0 when nothing differs, 1 when something does, 2 for a configuration that can't be used.
    """

    async def work(sides: "_Sides", progress: "_Progress") -> bool:
        from registry_server.jobs.transfer import differences

        same = True
        async with aclosing(differences(sides.layout, sides.database)) as repositories:
            async for name, found in repositories:
                lines = [
                    f"{name}: {one.name}: the link files say {one.source or 'nothing'}, "
                    f"the database {one.target or 'nothing'}"
                    for one in found
                ]
                progress.tell({"repository": name, "differences": [asdict(one) for one in found]}, lines)
                same = same and not found
        return same

    _run(config, as_, work)


def _transfer(config: Path, as_: str, *, prune: bool, to_database: bool) -> None:
    async def work(sides: "_Sides", progress: "_Progress") -> bool:
        from registry_server.jobs.transfer import transfer

        source, target = (sides.layout, sides.database) if to_database else (sides.database, sides.layout)
        complete = True
        async with aclosing(transfer(sides.storage, source, target, prune=prune)) as repositories:
            async for done in repositories:
                progress.tell(asdict(done), [f"{done.repository}: {problem}" for problem in done.problems])
                progress.count(done)
                complete = complete and not done.problems
        return complete

    _run(config, as_, work)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both drivers, over the same storage."""

    storage: "Storage"
    layout: "Metadata"
    database: "Metadata"


class _Progress(Protocol):
    """How far it is."""

    def tell(self, document: dict[str, Any], lines: list[str]) -> None:
        """Say what became of a repository."""

    def count(self, done: "Done") -> None:
        """Add to the sums."""


def _run(config: Path, as_: str, work: Callable[[_Sides, _Progress], Awaitable[bool]]) -> None:
    from registry_server.storage.contract import StorageError

    settings = _load(config)
    try:
        with _progress(as_) as progress:
            good = asyncio.run(_with_both(settings, lambda sides: work(sides, progress)))
    except StorageError as error:
        click.secho(f"{error}; run it again, it goes on where it stopped", fg="red", err=True)
        sys.exit(DIFFERENT)
    sys.exit(0 if good else DIFFERENT)


async def _with_both(settings: Config, work: Callable[[_Sides], Awaitable[bool]]) -> bool:
    from registry_server.metadata.drivers import open_metadata, prepare
    from registry_server.metadata.layout import LayoutMetadata
    from registry_server.registry.manifest import understand
    from registry_server.storage import open_storage

    prepare(settings.metadata)
    storage = open_storage(settings.storage)
    database = open_metadata(settings.metadata, storage, understand)
    try:
        return await work(_Sides(storage, LayoutMetadata(storage, understand), database))
    finally:
        await database.close()


def _load(config: Path) -> Config:
    loaded = load(config, os.environ)
    if loaded.config.metadata.sql is None:
        raise ConfigError(f"{config}: metadata.sql: is missing; name the database by metadata: {{sql: {{url: …}}}}")
    return loaded.config


@contextmanager
def _progress(as_: str) -> Iterator[_Progress]:
    if as_ == "json":
        yield _JSONLines()
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield bar
    else:
        sums = _Sums()
        yield sums
        click.echo(sums.text(), err=True)


class _JSONLines:
    """For programs: a line a repository."""

    def tell(self, document: dict[str, Any], _lines: list[str]) -> None:
        click.echo(json.dumps(document))

    def count(self, done: "Done") -> None:
        """The lines have all there is."""


class _Sums:
    """For people: what is worth a line, and sums at the end."""

    def __init__(self) -> None:
        self._repositories = 0
        self._sums = dict.fromkeys(("blobs", "manifests", "tags", "removed"), 0)

    def tell(self, _document: dict[str, Any], lines: list[str]) -> None:
        self._repositories += 1
        for line in lines:
            click.echo(line)

    def count(self, done: "Done") -> None:
        for name in self._sums:
            self._sums[name] += getattr(done, name)

    def text(self) -> str:
        said = [f"{count} {name}" for name, count in self._sums.items() if count]
        return f"{self._repositories} repositories: {', '.join(said) or 'nothing to do'}"


@contextmanager
def _bar() -> Iterator[_Progress]:
    """At a terminal the sums are shown as they grow."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("") as status:

        class Bar(_Sums):
            def tell(self, document: dict[str, Any], lines: list[str]) -> None:
                super().tell(document, lines)
                status.update(f"{self.text()} · {document['repository']}")

        bar = Bar()
        yield bar
    console.print(bar.text())
