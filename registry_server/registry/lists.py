"""Lists of tags and of repositories, a page at a time."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
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
        limit = MAX_TAGS if count is None else min(count, MAX_TAGS)
        tags = await self._metadata.tags(repository, after=after, limit=limit + 1)
        if tags is None:
            raise NameUnknown(detail={"name": repository})
        return _page(tags, limit)

    async def repositories(self, *, count: int | None, after: str, visible: Callable[[str], bool]) -> Page:
        """At most `count` repositories that come after `after` and that the asker may see."""
        limit = MAX_REPOSITORIES if count is None else min(count, MAX_REPOSITORIES)
        found: list[str] = []
        async with aclosing(self._metadata.repositories(after=after, batch=limit + 1)) as batches:
            async for batch in batches:
                found += filter(visible, batch)
                if len(found) > limit:
                    break
        return _page(found, limit)


def _page(entries: Sequence[str], limit: int) -> Page:
    """The first `limit` of entries, of which there are more if more follow."""
    return Page(entries[:limit], more=0 < limit < len(entries))
