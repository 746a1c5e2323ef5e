"""Lists of tags and of repositories, a page at a time."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from registry_server.metadata.contract import Metadata
from registry_server.registry.errors import NameUnknown

MAX_TAGS: Final = 10_000
"""Tags on a page, however many a client asks for."""
MAX_REPOSITORIES: Final = 1_000
"""Repositories on a page (distribution's `catalog.maxentries`)."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in ASCII order."""

    entries: Sequence[str]
    more: bool
    """Whether entries follow the last one."""


class Lists:
    """What there is."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def tags(self, repository: str, *, count: int | None, after: str) -> Page:
        """At most `count` tags that come after `after`, which need not exist. Raises NameUnknown."""
        tags = await self._metadata.tags(repository)
        if tags is None:
            raise NameUnknown(detail={"name": repository})
        return _page(tags, MAX_TAGS if count is None else min(count, MAX_TAGS), after)

    async def repositories(self, *, count: int | None, after: str, visible: Callable[[str], bool]) -> Page:
        """At most `count` repositories that come after `after` and that the asker may see."""
        repositories = [name for name in await self._metadata.repositories() if visible(name)]
        return _page(repositories, MAX_REPOSITORIES if count is None else min(count, MAX_REPOSITORIES), after)


def _page(entries: Sequence[str], count: int, after: str) -> Page:
    start = bisect_right(entries, after) if after else 0
    page = entries[start : start + count]
    return Page(page, more=count > 0 and start + count < len(entries))
