"""What the last run of a job came to, kept beside the storage it was about: servers schedule by it, and tell of it."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

from registry_server.jobs.occupancy import LeaseLost
from registry_server.storage.contract import Aside, StorageError

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to so far."""

    sums: Mapping[str, Sum] = field(default_factory=dict)
    error: str | None = None
    """Damage that it has found."""


async def note(aside: Aside, job: str, run: Run) -> None:
    """Keep a run in place of the one before."""
    await aside.write(f"{_RUNS}/{job}", json.dumps(asdict(run)).encode())


@asynccontextmanager
async def noting(aside: Aside, job: str, outcome: Callable[[], Outcome]) -> AsyncGenerator[None]:
    """Keep what the block has come to at its end, also where it breaks off. Raises what it does, and StorageError."""
    began = time.monotonic()
    try:
        yield
    except (StorageError, LeaseLost) as error:
        with suppress(StorageError):
            await note(aside, job, Run(time.monotonic() - began, str(error), outcome().sums))
        raise
    ended = outcome()
    await note(aside, job, Run(time.monotonic() - began, ended.error, ended.sums))


async def fail(aside: Aside, job: str, error: str) -> None:
    """Say of the last run of a job that it was no success after all."""
    found = await last(aside, job)
    run = found[1] if found else None
    await note(aside, job, replace(run or Run(), error=error))


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
