"""The block `scrub`: content read again and compared with its digest."""

from datetime import timedelta
from typing import Annotated

from pydantic import ByteSize, Field

from registry_server.config.scalars import Duration
from registry_server.config.section import Section


class Scrub(Section):
    """How fast `registry-server scrub` reads, in bytes a second, as a number or as 20MiB.

    A server runs it by itself an `interval` after the last time; never for 0.
    """

    rate: Annotated[ByteSize, Field(ge=1)] = ByteSize(20 << 20)
    interval: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)
