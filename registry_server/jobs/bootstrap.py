"""Whether a registry has become what it shall begin with: a small file beside its storage says so.

It is written before anything is brought back, so that what is broken off goes on with the same run, and a registry that
held something before is told from one that holds the first half of a backup.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final

from registry_server.metadata.contract import Metadata
from registry_server.storage.contract import Aside

JOB: Final = "bootstrap"
_PATH: Final = "bootstrap"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a registry comes from."""

    run: str | None
    """The run of a backup; None where it held something already."""
    complete: bool
    """Whether all of it is there."""


async def origin(aside: Aside) -> Origin | None:
    """None for a registry of which that was never asked. Raises StorageError."""
    content = await aside.read(_PATH)
    return None if content is None else Origin(**json.loads(content))


async def settle(aside: Aside, origin: Origin) -> Origin:
    """Write down where a registry comes from, durably. Raises StorageError."""
    await aside.write(_PATH, json.dumps(asdict(origin)).encode())
    return origin


async def is_empty(metadata: Metadata) -> bool:
    """Whether a registry has no repository."""
    async for _ in metadata.everything():
        return False
    return True
