"""The blocks `backup`, where copies of the registry go, and `bootstrap`, the copy that it comes from."""

from typing import Annotated

from pydantic import Field

from registry_server.config.drivers import Drivers
from registry_server.config.recurring import Recurring
from registry_server.config.scalars import Text
from registry_server.config.section import Bool, FilePath, Int, Section

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


class Backup(Recurring):
    """What `registry-server backup` does.

    A server runs it by itself, and prunes, an `interval` after the last time or by a `schedule`; `immediate`: for the
    first time as soon as it serves. `verify`: each time all that the run has kept is read again. With a `keyfile`,
    whose content only its owners know, runs are signed, and only such are restored.
    """

    destination: Destination
    keep: Keep = Keep()
    immediate: Bool = False
    verify: Bool = False
    keyfile: FilePath | None = None


class Bootstrap(Section):
    """Where an empty registry comes from: before a server serves for the first time it brings back a `run` of a backup.

    That is the last one unless its name is given. A registry that holds something is served as it is.
    """

    source: Destination
    run: Annotated[Text, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z$")] | None = None
    keyfile: FilePath | None = None
