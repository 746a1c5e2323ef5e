"""`registry-operator local …`: registries on this machine, without Kubernetes."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from registry_operator.cluster.local import StateDirectory
    from registry_operator.cluster.protocol import Key

INVALID: Final = 2
_POLL: Final = 0.1
"""Seconds between looks at what another process does."""

_STATE = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REGATTA_STATE",
    help="Directory of objects, content and logs.  [default: $XDG_STATE_HOME/regatta, or ~/.local/state/regatta]",
)


@click.group(short_help="Run registries on this machine, without Kubernetes.")
def local() -> None:
    """Run registries on this machine, from the same manifests as on a cluster.

    \b
      registry-operator local up registry.yaml     until Ctrl-C; follows changes of the file
      registry-operator local status               in another terminal
      registry-operator local logs NAME -f
      registry-operator local down
    """


@local.command(short_help="Run the registries of manifest files until Ctrl-C.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), help="Of the first Registry, instead of its spec.service.port.")
@click.option("--prove", is_flag=True, help="Push and pull an image before saying that a registry is ready.")
@_STATE
@click.pass_context
def up(ctx: click.Context, paths: tuple[Path, ...], port: int | None, prove: bool, state: Path | None) -> None:
    """Run the registries of PATH…: files or directories with manifests of Registry, and of the Secret, ConfigMap and
    PersistentVolumeClaim that they name. A claim whose volumeName is a PersistentVolume with a hostPath serves the
    content there, such as that of a registry:2.

    The files are followed. An edit takes effect at once; an object whose manifest goes is deleted, but never a
    registry's content. Ends with 0 if every Registry was ready, with 1 if not, with 2 if the manifests are invalid.
    """
    import asyncio
    import logging

    from registry_operator.cli.local.console import Voice
    from registry_operator.cli.local.up import InvalidInput, Options, Up
    from registry_operator.cluster.local import StateInUse

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    directory = _directory(state)

    async def run() -> int:
        return await Up(Options(paths=paths, state=directory, port=port, prove=prove), Voice()).run()

    try:
        with directory.locked():
            ctx.exit(asyncio.run(run()))
    except InvalidInput as invalid:
        for problem in invalid.problems:
            click.secho(problem, fg="red", err=True)
        ctx.exit(INVALID)
    except (StateInUse, OSError) as obstacle:
        raise click.ClickException(str(obstacle)) from None


@local.command(short_help="Show the registries and how they are.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", show_default=True)
@_STATE
def status(form: str, state: Path | None) -> None:
    """Show the registries of the state directory, whether or not they run."""
    from registry_operator.cli.local.inspect import look

    registries = look(_directory(state))
    if form == "json":
        click.echo(json.dumps([registry.as_json() for registry in registries], indent=2))
        return
    if not registries:
        click.echo(f"no registries in {_directory(state).root}")
        return

    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
        "REGISTRY",
        "READY",
        "ADDRESS",
        "PID",
        "CERTIFICATE UNTIL",
        "BACKED UP",
        "SIZE",
        "STORAGE",
        "MESSAGE",
    ):
        table.add_column(column, no_wrap=True, justify="right" if column in {"PID", "SIZE"} else "left")
    for registry in registries:
        table.add_row(
            f"{registry.namespace}/{registry.name}",
            "[green]yes[/]" if registry.ready else "[red]no[/]",
            registry.address or "-",
            str(registry.pid or "-"),
            (registry.certificate_expires or "-")[:10],
            (registry.last_backup or "-")[:16].replace("T", " "),
            decimal(registry.storage_bytes),
            registry.storage or "-",
            escape(registry.message),
        )
    # As wide as it is: a terminal breaks lines, and a message that is cut helps no one.
    Console(width=1000).print(table)


@local.command(short_help="Show what a registry's process says.")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.  [default: all]")
@_STATE
def logs(name: str, follow: bool, tail: int | None, state: Path | None) -> None:
    """Show the log of the registry NAME (or NAMESPACE/NAME): one JSON object a line."""
    from registry_operator.cluster.local.log import follow_lines, read_lines

    directory = _directory(state)
    key = _find(directory, name)
    path = directory.log(str(key.namespace), _deployment_name(key))
    try:
        lines: Iterator[str] = follow_lines(path, tail=tail) if follow else read_lines(path, tail=tail)
        for line in lines:
            click.echo(line)
    except KeyboardInterrupt:
        pass


@local.command(short_help="Stop a running `up`; delete registries with --delete-data.")
@click.option(
    "--delete-data",
    "doomed",
    metavar="NAME",
    multiple=True,
    help="Then delete this Registry with its certificate, logins and content, for good.",
)
@_STATE
def down(doomed: tuple[str, ...], state: Path | None) -> None:
    """Stop the `up` that runs on the state directory, and wait until its last process has ended."""
    directory = _directory(state)
    keys = [_find(directory, name) for name in doomed]
    pid = directory.running_pid()
    if pid is None:
        click.echo(f"nothing runs on {directory.root}")
    else:
        click.echo(f"stopping process {pid}")
        os.kill(pid, signal.SIGTERM)
        while directory.running_pid() == pid:
            time.sleep(_POLL)
        click.echo("stopped")
    for key in keys:
        _delete(directory, key)


def _delete(directory: "StateDirectory", key: "Key") -> None:
    from registry_operator.cluster.local.removal import delete_registry

    with directory.locked():
        for path in delete_registry(directory, key):
            click.echo(f"deleted {path}")


def _directory(given: Path | None) -> "StateDirectory":
    from registry_operator.cluster.local import StateDirectory

    return StateDirectory(given) if given else StateDirectory.default()


def _find(directory: "StateDirectory", name: str) -> "Key":
    from registry_operator.cli.local.inspect import NoSuchRegistry, find

    try:
        return find(directory, name)
    except NoSuchRegistry as error:
        raise click.ClickException(str(error)) from None


def _deployment_name(key: "Key") -> str:
    from registry_operator.api.names import child_name

    return child_name(key.name)
