"""The block `backup`: where copies of the registry go, and how long they are kept."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from registry_server.config.drivers import Drivers
from registry_server.config.scalars import Duration
from registry_server.config.section import FilePath, Int, Section

Count = Annotated[Int, Field(ge=0, le=10_000)]


class Destination(Drivers):
    """A storage of its own: another folder, bucket or prefix than the registry's, with the settings of `storage`."""


class Keep(Section):
    """Which runs `backup prune` keeps: the last ones, and the last of each of the latest hours, days, weeks or months.

    A run is kept if any of them keeps it. Without any, all are kept.
    """

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0


class Backup(Section):
    """What `registry-server backup` does.

    A server runs it by itself, and prunes, an `interval` after the last time; never for 0. With a `keyfile`, whose
    content only its owners know, runs are signed, and only such are restored.
    """

    destination: Destination
    keep: Keep = Keep()
    interval: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)
    keyfile: FilePath | None = None
