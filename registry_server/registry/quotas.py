"""Quotas: how much repositories may take, each by itself or all that match together.

Asked wherever a push would take more: as an upload begins, goes on and ends, as a blob is mounted, and as a manifest or
a tag comes. What is there already may be pushed again however much is used. Several processes may each let in what
would fit alone, so by what is pushed at the same moment a limit may be exceeded.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from pydantic import ByteSize

from registry_server.config.globs import compile_globs
from registry_server.config.quotas import Quota
from registry_server.metadata.contract import Metadata, Usage
from registry_server.parallel import in_parallel
from registry_server.registry.errors import Denied

COUNTED_FOR: Final = 5.0
"""Seconds for which the sum of many repositories is taken for what it was; what this process adds counts at once."""
ATTEMPTS: Final = 20
"""Times that is counted anew what changes meanwhile; then the count is taken as it is."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota made ready."""

    globs: tuple[str, ...]
    repositories: re.Pattern[str]
    together: bool
    bytes: int | None
    tags: int | None

    @classmethod
    def of(cls, quota: Quota) -> Self:
        return cls(quota.repositories, compile_globs(quota.repositories), quota.together, quota.bytes, quota.tags)

    @property
    def name(self) -> str:
        """The repositories as the configuration has them."""
        return ",".join(self.globs)

    @property
    def labels(self) -> tuple[str, str]:
        """What tells it from others in metrics."""
        return self.name, str(self.together).lower()

    def covers(self, repository: str) -> bool:
        return self.repositories.fullmatch(repository) is not None

    def check(self, used: Usage, more: Usage) -> None:
        """Raises Denied where more would be too much."""
        for what in ("bytes", "tags"):
            most, now, added = (getattr(of, what) for of in (self, used, more))
            if most is not None and added and now + added > most:
                whose = f"the repositories {self.name} hold together" if self.together else "the repository holds"
                raise Denied(
                    f"the quota would be exceeded: {whose} {_readable(what, now)} of at most {_readable(what, most)}; "
                    "delete what is no longer needed, or ask for more",
                    {"quota": what, "used": now, "limit": most},
                )


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit, and what is used of it."""

    limit: Limit
    used: Usage


@dataclass(slots=True)
class _Sum:
    """What many repositories took together when they were counted, and what was added here since."""

    used: Usage
    until: float


class Quotas:
    """The limits in force."""

    def __init__(self, metadata: Metadata, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metadata = metadata
        self._clock = clock
        self._sums: dict[Limit, _Sum] = {}
        self._counting = asyncio.Lock()
        self._coming: dict[str, Usage] = {}
        """What was let in and is being put into repositories."""
        self._settled = asyncio.Event()
        """Set, and replaced, when something of that is there, or is not coming after all."""
        self.limits: tuple[Limit, ...] = ()

    def of(self, repository: str) -> Sequence[Limit]:
        """The limits that a repository is under."""
        return [limit for limit in self.limits if limit.covers(repository)]

    async def standings(self, repository: str, own: Usage) -> list[Standing]:
        """How a repository, which takes `own`, stands with each of its limits."""
        return [
            Standing(limit, await self._together(limit) if limit.together else own) for limit in self.of(repository)
        ]

    async def check(self, repository: str, *, size: int) -> None:
        """Raises Denied where a repository may not take so many bytes more."""
        await self._check(repository, Usage(size))

    @asynccontextmanager
    async def room(self, repository: str, *, size: int = 0, tags: int = 0) -> AsyncIterator[None]:
        """Lets the block put so much more into a repository. Raises Denied."""
        more = Usage(size, tags)
        limits = await self._check(repository, more)
        if not limits:
            yield
            return
        self._coming[repository] = self._coming.get(repository, Usage()) + more
        try:
            yield
            for limit in limits:
                if limit in self._sums:
                    self._sums[limit].used += more
        finally:
            self._coming[repository] -= more
            if self._coming[repository] == Usage():
                del self._coming[repository]
            settled, self._settled = self._settled, asyncio.Event()
            settled.set()

    async def measure(self) -> tuple[dict[str, Usage], dict[Limit, Usage]]:
        """What each repository takes that is under a limit, and what those of each limit take together."""
        taken = await self._taken(self.limits) if self.limits else {}
        sums = {
            limit: _total(used for name, used in taken.items() if limit.covers(name))
            for limit in self.limits
            if limit.together
        }
        return taken, sums

    async def _check(self, repository: str, more: Usage) -> Sequence[Limit]:
        """The limits that count more, none where there is no more. Raises Denied."""
        limits = self.of(repository) if more != Usage() else ()
        if not limits:
            return ()
        alone = any(not limit.together for limit in limits)
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            settled = self._settled
            own = await self._metadata.usage(repository) if alone else Usage()
            standings = await self.standings(repository, own)
            if settled.is_set() and not last:
                continue  # it may be in neither of what is used and what is on the way
            try:
                for one in standings:
                    one.limit.check(one.used + self._on_the_way(one.limit, repository), more)
            except Denied:
                for one in standings:
                    one.limit.check(one.used, more)
                if last:
                    raise
                await settled.wait()  # what is on the way may be counted twice just now, or not come
            else:
                break
        return limits

    def _on_the_way(self, limit: Limit, repository: str) -> Usage:
        if not limit.together:
            return self._coming.get(repository, Usage())
        return _total(used for name, used in self._coming.items() if limit.covers(name))

    async def _together(self, limit: Limit) -> Usage:
        """What all repositories of a limit take."""
        async with self._counting:
            kept = self._sums.get(limit)
            if kept is None or kept.until < self._clock():
                used = _total((await self._taken([limit])).values())
                kept = self._sums[limit] = _Sum(used, self._clock() + COUNTED_FOR)
            return kept.used

    async def _taken(self, limits: Sequence[Limit]) -> dict[str, Usage]:
        """What each repository takes that is under one of the limits."""
        async with aclosing(self._metadata.everything()) as names:
            covered = [name async for name in names if any(limit.covers(name) for limit in limits)]
        return dict(zip(covered, await in_parallel(self._metadata.usage, covered), strict=True))


def _total(usages: Iterable[Usage]) -> Usage:
    return sum(usages, start=Usage())


def usage_document(repository: str, used: Usage, standings: Sequence[Standing] = ()) -> dict[str, Any]:
    """What API and commands show of a repository."""
    document: dict[str, Any] = {"name": repository, **asdict(used)}
    if standings:
        document["quotas"] = [
            {
                "repositories": list(one.limit.globs),
                "together": one.limit.together,
                "used": asdict(one.used),
                "limit": {"bytes": one.limit.bytes, "tags": one.limit.tags},
            }
            for one in standings
        ]
    return document


def _readable(what: str, amount: int) -> str:
    return ByteSize(amount).human_readable() if what == "bytes" else f"{amount} tags"
