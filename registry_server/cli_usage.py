"""`registry-server usage`: what repositories take, and how they stand with their quotas."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ByteSize

from registry_server.config import Config, ConfigError, load


@click.command(
    "usage", short_help="What repositories take, and how they stand with their quotas.", no_args_is_help=True
)
@click.argument("config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG")
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...")
@click.option("--format", "as_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def usage(config: Path, repositories: tuple[str, ...], as_: str) -> None:
    """Show what repositories take, all of them or some, the largest first.

    Bytes are those of the distinct blobs and manifests that a repository holds; what several repositories hold counts
    in each. Beside a serving server it is safe, and changes nothing.

    \b
    Examples:
      registry-server usage ./config.yml
      registry-server usage ./config.yml team/app --format json
    """
    from registry_server.storage.contract import StorageError

    settings = load(config, os.environ).config
    try:
        documents = asyncio.run(_ask(settings, repositories))
    except StorageError as error:
        raise ConfigError(f"{config}: the storage or the database can't be read: {error}") from error
    documents.sort(key=lambda one: -one["bytes"])
    if as_ == "json":
        click.echo(json.dumps(documents, indent=2))
    else:
        _table(documents)


async def _ask(settings: Config, wanted: Sequence[str]) -> list[dict[str, Any]]:
    from registry_server.metadata.drivers import open_metadata
    from registry_server.registry.manifest import understand
    from registry_server.registry.quotas import Limit, Quotas, usage_document
    from registry_server.storage import open_storage

    storage = open_storage(settings.storage)
    metadata = open_metadata(settings.metadata, storage, understand)
    try:
        quotas = Quotas(metadata)
        quotas.limits = tuple(map(Limit.of, settings.quotas))
        names = wanted or [name async for name in metadata.everything()]
        documents = []
        for name in names:
            own = await metadata.usage(name)
            documents.append(usage_document(name, own, await quotas.standings(name, own)))
        return documents
    finally:
        await metadata.close()


def _table(documents: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Repository", "Size", "Tags", "Quotas", box=None)
    for one in documents:
        quotas = [_quota(quota) for quota in one.get("quotas", ())]
        table.add_row(one["name"], ByteSize(one["bytes"]).human_readable(), str(one["tags"]), "\n".join(quotas))
    Console(width=None if os.isatty(1) else 200).print(table)


def _quota(quota: dict[str, Any]) -> str:
    used, limit = quota["used"], quota["limit"]
    parts = []
    if limit["bytes"] is not None:
        parts.append(f"{ByteSize(used['bytes']).human_readable()} of {ByteSize(limit['bytes']).human_readable()}")
    if limit["tags"] is not None:
        parts.append(f"{used['tags']} of {limit['tags']} tags")
    whose = f"{','.join(quota['repositories'])}{' together' if quota['together'] else ''}"
    return f"{whose}: {', '.join(parts) or 'measured only'}"
