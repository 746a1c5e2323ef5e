"""How the runs of jobs go and what they came to, kept beside the storage that they are about.

runs/JOB      the last runs that ended, the newest first; servers schedule by it, and tell of it
running/JOB   how far a run is, written again every few seconds
cancel/JOB    somebody wants it to end
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from registry_server.jobs.occupancy import DEAD_AFTER, LeaseLost
from registry_server.storage.contract import Aside, StorageError

KEPT: Final = 10
"""Runs that are known of each job."""
FIRST_SIGN: Final = 1.0
"""Seconds after which a run says how far it is for the first time: most are done by then."""
SIGN_EVERY: Final = 5.0
"""Seconds between two of them, and until a run notices that it shall end."""
CANCELLED: Final = "was cancelled"

_RUNS: Final = "runs"
_RUNNING: Final = "running"
_CANCEL: Final = "cancel"


class Cancelled(Exception):
    """Somebody has asked for the job to end."""


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
    """Why it broke off, or what damage it has found."""
    sums: Mapping[str, Sum] = field(default_factory=dict)
    """What it has done."""
    result: str | None = None
    """What it has made: the id of a backup's run."""
    ended: float = 0.0
    """When, by the storage's clock in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to so far."""

    sums: Mapping[str, Sum] = field(default_factory=dict)
    error: str | None = None
    """Damage that it has found."""
    result: str | None = None
    """What it has made: the id of a backup's run."""
    expected: Sum | None = None
    """All that there is to do, once that is known."""


@dataclass(frozen=True, slots=True)
class Underway:
    """A run that goes on."""

    job: str
    seconds: float
    """For how long it had gone on when it told of itself."""
    told: float
    """When that was, by the storage's clock in seconds since 1970."""
    sums: Mapping[str, Sum]
    expected: Sum | None

    @property
    def remaining(self) -> float | None:
        """Seconds that are left at this pace; None where that can't be told yet."""
        done = sum(one.bytes for one in self.sums.values())
        if self.expected is None or not done:
            return None
        return max(self.expected.bytes - done, 0) * self.seconds / done


async def note(aside: Aside, job: str, run: Run) -> None:
    """Keep a run before those that were known."""
    _, before = await history(aside, job) or (0.0, ())
    await _write(aside, job, (run, *before))


@asynccontextmanager
async def noting(aside: Aside, job: str, outcome: Callable[[], Outcome]) -> AsyncGenerator[None]:
    """Tell how far the block is, and keep what it has come to at its end, also where it breaks off.

    Raises what the block does, StorageError, and Cancelled where somebody has called `cancel`.
    """
    began = time.monotonic()
    working = asyncio.current_task()
    assert working is not None  # noqa: S101, we run in one
    await aside.remove(f"{_CANCEL}/{job}")
    telling = asyncio.create_task(_tell(aside, job, outcome, working))
    error: str | None = None
    broken = True
    try:
        yield
        broken = False
    except (StorageError, LeaseLost) as fault:
        error = str(fault)
        raise
    except asyncio.CancelledError as end:
        if not telling.done() or telling.cancelled() or telling.exception():
            raise
        working.uncancel()
        error = CANCELLED
        raise Cancelled from end
    finally:
        telling.cancel()
        ended = outcome()
        run = Run(time.monotonic() - began, error or ended.error, ended.sums, ended.result)
        if not broken:
            await note(aside, job, run)
        elif error is not None:
            with suppress(StorageError):
                await note(aside, job, run)
        with suppress(StorageError):
            await aside.remove(f"{_RUNNING}/{job}")


async def _tell(aside: Aside, job: str, outcome: Callable[[], Outcome], working: asyncio.Task[Any]) -> None:
    """Tell how far it is, until somebody wants it to end: then end it."""
    began = time.monotonic()
    await asyncio.sleep(FIRST_SIGN)
    while True:
        with suppress(StorageError):  # the job itself meets it
            if job in await aside.written(_CANCEL):
                await aside.remove(f"{_CANCEL}/{job}")
                working.cancel()
                return
            so_far = outcome()
            expected = None if so_far.expected is None else asdict(so_far.expected)
            sums = {name: asdict(one) for name, one in so_far.sums.items()}
            sign = {"seconds": time.monotonic() - began, "sums": sums, "expected": expected}
            await aside.write(f"{_RUNNING}/{job}", json.dumps(sign).encode())
        await asyncio.sleep(SIGN_EVERY)


async def cancel(aside: Aside, job: str) -> None:
    """Have a run end that goes on, within SIGN_EVERY."""
    await aside.write(f"{_CANCEL}/{job}", b"")


async def underway(aside: Aside) -> list[Underway]:
    """The runs that have told of themselves lately."""
    found = []
    for job, told in (await aside.written(_RUNNING)).items():
        content = await aside.read(f"{_RUNNING}/{job}")
        if content is None or time.time() - told > DEAD_AFTER:
            continue
        with suppress(ValueError, TypeError, KeyError):  # half of it was read
            document = json.loads(content)
            expected = None if document["expected"] is None else Sum(**document["expected"])
            found.append(Underway(job, float(document["seconds"]), told, _sums(document), expected))
    return found


async def fail(aside: Aside, job: str, error: str) -> None:
    """Say of the last run of a job that it was no success after all."""
    _, known = await history(aside, job) or (0.0, ())
    newest, *before = known or (Run(),)
    await _write(aside, job, (replace(newest, error=error), *before))


async def begin(aside: Aside, job: str) -> None:
    """Let the first interval of a job begin now, unless it has run before."""
    await aside.create(f"{_RUNS}/{job}", b"[]")


async def last(aside: Aside, job: str) -> tuple[float, Run | None] | None:
    """When a job has run or begun to be counted, by the storage's clock in seconds since 1970, and what it came to."""
    found = await history(aside, job)
    return None if found is None else (found[0], found[1][0] if found[1] else None)


async def history(aside: Aside, job: str) -> tuple[float, Sequence[Run]] | None:
    """When a job has run or begun to be counted, as in `last`, and its last runs, the newest first."""
    at = (await aside.written(_RUNS)).get(job)
    content = None if at is None else await aside.read(f"{_RUNS}/{job}")
    if at is None or content is None:
        return None
    try:
        runs = [_run(document) for document in json.loads(content)]
    except (ValueError, TypeError, KeyError):
        runs = [Run(error="its record is damaged")]
    # When the newest one ended is when the file was written: no other clock is asked.
    return at, [replace(runs[0], ended=at), *runs[1:]] if runs else []


async def _write(aside: Aside, job: str, runs: Sequence[Run]) -> None:
    await aside.write(f"{_RUNS}/{job}", json.dumps([asdict(run) for run in runs[:KEPT]]).encode())


def _run(document: dict[str, Any]) -> Run:
    return Run(**{**document, "sums": _sums(document)})


def _sums(document: dict[str, Any]) -> dict[str, Sum]:
    return {name: Sum(**one) for name, one in document["sums"].items()}
