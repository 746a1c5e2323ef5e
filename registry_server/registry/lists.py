"""Lists of tags and of repositories, a page at a time."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from registry_server.metadata.contract import Metadata, Usage
from registry_server.parallel import in_parallel
from registry_server.registry.errors import NameUnknown


@dataclass(frozen=True, slots=True)
class Pages:
    """How much a page holds at most, however much a client asks for."""

    tags: int
    repositories: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in ASCII order."""

    entries: Sequence[str]
    more: bool
    """Whether entries follow the last one."""


class Lists:
    """What there is."""

    def __init__(self, metadata: Metadata, pages: Pages) -> None:
        self._metadata = metadata
        self._pages = pages

    async def tags(self, repository: str, *, count: int | None, after: str) -> Page:
        """At most `count` tags that come after `after`, which need not exist. Raises NameUnknown."""
        limit = self._pages.tags if count is None else min(count, self._pages.tags)
        tags = await self._metadata.tags(repository, after=after, limit=limit + 1)
        if tags is None:
            raise NameUnknown(detail={"name": repository})
        return _page(tags, limit)

    async def repositories(self, *, count: int | None, after: str, visible: Callable[[str], bool]) -> Page:
        """At most `count` repositories that come after `after` and that the asker may see."""
        limit = self._pages.repositories if count is None else min(count, self._pages.repositories)
        found: list[str] = []
        async with aclosing(self._metadata.repositories(after=after, batch=limit + 1)) as batches:
            async for batch in batches:
                found += filter(visible, batch)
                if len(found) > limit:
                    break
        return _page(found, limit)

    async def usage(self, repository: str) -> Usage:
        """What a repository takes. Raises NameUnknown for one that holds nothing."""
        used = await self._metadata.usage(repository)
        if used == Usage():
            raise NameUnknown(detail={"name": repository})
        return used

    async def usages(self, repositories: Sequence[str]) -> Sequence[Usage]:
        """What each of them takes."""
        return await in_parallel(self._metadata.usage, repositories)


def _page(entries: Sequence[str], limit: int) -> Page:
    """The first `limit` of entries, of which there are more if more follow."""
    return Page(entries[:limit], more=0 < limit < len(entries))
