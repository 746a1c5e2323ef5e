"""What the commands have in common that do jobs: how they break off."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

BROKEN_OFF: Final = 1
"""The exit code of a job that broke off."""


@contextmanager
def explained() -> Iterator[None]:
    """Ends the program with what a person can do, where the block breaks off for a reason that is no defect."""
    from registry_server.jobs.backup import BackupError
    from registry_server.jobs.occupancy import LeaseLost, Occupied
    from registry_server.storage.contract import StorageError

    try:
        yield
    except BackupError as error:
        text = str(error)
    except Occupied as error:
        text = f"{error}; try again when it is done"
    except (StorageError, LeaseLost) as error:
        text = f"{error}; nothing is lost: run it again, it goes on where it stopped"
    else:
        return
    click.secho(text, fg="red", err=True)
    sys.exit(BROKEN_OFF)
