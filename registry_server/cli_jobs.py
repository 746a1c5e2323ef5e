"""What the commands have in common that do jobs: what they work on, and how they break off."""

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import click

from registry_server.config import Config

if TYPE_CHECKING:
    from registry_server.metadata.contract import Metadata
    from registry_server.storage.contract import Storage

BROKEN_OFF: Final = 1
"""The exit code of a job that broke off."""


@contextmanager
def explained() -> Iterator[None]:
    """Ends the program with what a person can do, where the block breaks off for a reason that is no defect."""
    from registry_server.jobs.backup import BackupError
    from registry_server.jobs.occupancy import LeaseLost, Occupied
    from registry_server.jobs.runs import Cancelled
    from registry_server.storage.contract import StorageError

    try:
        yield
    except BackupError as error:
        text = str(error)
    except Occupied as error:
        text = f"{error}; try again when it is done"
    except Cancelled:
        text = "it was cancelled; nothing is lost: run it again, it goes on where it stopped"
    except (StorageError, LeaseLost) as error:
        text = f"{error}; nothing is lost: run it again, it goes on where it stopped"
    else:
        return
    click.secho(text, fg="red", err=True)
    sys.exit(BROKEN_OFF)


@asynccontextmanager
async def opened(settings: Config) -> "AsyncGenerator[tuple[Storage, Metadata]]":
    """The storage and the metadata of a registry; a database is brought up to date first."""
    from registry_server.metadata.drivers import open_metadata, prepare
    from registry_server.registry.manifest import understand
    from registry_server.storage import open_storage

    prepare(settings.metadata)
    storage = open_storage(settings.storage)
    metadata = open_metadata(settings.metadata, storage, understand)
    try:
        yield storage, metadata
    finally:
        await metadata.close()
