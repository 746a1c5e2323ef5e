"""The block `scrub`: content read again and compared with its digest."""

from typing import Annotated

from pydantic import ByteSize, Field

from registry_server.config.recurring import Recurring


class Scrub(Recurring):
    """How fast `registry-server scrub` reads, in bytes a second, as a number or as 20MiB.

    A server runs it by itself an `interval` after the last time, or by a `schedule`.
    """

    rate: Annotated[ByteSize, Field(ge=1)] = ByteSize(20 << 20)
