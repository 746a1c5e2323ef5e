"""What the last run of a job came to, kept beside the storage it was about: servers schedule by it, and tell of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from registry_server.storage.contract import Aside

_RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Sum:
    """Of things with the same fate."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    seconds: float = 0.0
    """How long it took."""
    error: str | None = None
    """Why it broke off."""
    sums: Mapping[str, Sum] = field(default_factory=dict)
    """What it has done."""


async def note(aside: Aside, job: str, run: Run) -> None:
    """Keep a run in place of the one before."""
    await aside.write(f"{_RUNS}/{job}", json.dumps(asdict(run)).encode())


async def begin(aside: Aside, job: str) -> None:
    """Let the first interval of a job begin now, unless it has run before."""
    await aside.create(f"{_RUNS}/{job}", b"null")


async def last(aside: Aside, job: str) -> tuple[float, Run | None] | None:
    """When a job has run or begun to be counted, by the storage's clock in seconds since 1970, and what it came to."""
    at = (await aside.written(_RUNS)).get(job)
    content = None if at is None else await aside.read(f"{_RUNS}/{job}")
    if at is None or content is None:
        return None
    try:
        document = json.loads(content)
        if document is None:
            return at, None
        sums = {name: Sum(**one) for name, one in document["sums"].items()}
        return at, Run(float(document["seconds"]), document["error"], sums)
    except (ValueError, TypeError, KeyError):
        return at, Run(error="its record is damaged")
