"""Objects of other people that a reconcile has read: a user's Secret with logins, a claim with the data.

They are not cached. A watch that carries only metadata, never a Secret's content, tells when one of them appears,
changes or goes, and the references tell who had asked for it. It needs no more permission than the cache of our own
children does: list and watch on the same kinds.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final

from registry_operator.api.kinds import PERSISTENT_VOLUME_CLAIM, SECRET, Kind
from registry_operator.cluster.kubernetes.api import Api, Refusal
from registry_operator.cluster.kubernetes.cache import key_of
from registry_operator.cluster.protocol import Key, Unavailable

FOREIGN_KINDS: Final = (SECRET, PERSISTENT_VOLUME_CLAIM)
"""What a Registry's spec can refer to."""

RETRY_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 60.0

logger = logging.getLogger(__name__)


class References:
    """Who reads which foreign object, as seen in each one's last reconcile."""

    def __init__(self) -> None:
        self._reader: ContextVar[set[Key] | None] = ContextVar("reader", default=None)
        self._read_by: dict[Key, frozenset[Key]] = {}
        self._readers: defaultdict[Key, set[Key]] = defaultdict(set)

    def note(self, key: Key) -> None:
        """The running reconcile depends on this object, whether it exists or not."""
        reads = self._reader.get()
        if reads is not None and key.kind in FOREIGN_KINDS:
            reads.add(key)

    @contextlib.contextmanager
    def reading(self, reader: Key) -> Iterator[None]:
        """What is noted within is what `reader` depends on from now on."""
        reads: set[Key] = set()
        token = self._reader.set(reads)
        try:
            yield
        finally:
            self._reader.reset(token)
            self._set(reader, frozenset(reads))

    def readers(self, key: Key) -> frozenset[Key]:
        """Who depends on this object."""
        return frozenset(self._readers.get(key, ()))

    def readers_of_kind(self, kind: Kind) -> frozenset[Key]:
        """Who depends on any object of this kind."""
        return frozenset(reader for key, readers in self._readers.items() if key.kind == kind for reader in readers)

    def _set(self, reader: Key, reads: frozenset[Key]) -> None:
        for key in self._read_by.pop(reader, frozenset()) - reads:
            self._readers[key].discard(reader)
            if not self._readers[key]:
                del self._readers[key]
        for key in reads:
            self._readers[key].add(reader)
        if reads:
            self._read_by[reader] = reads


async def watch_foreign(
    api: Api, kind: Kind, namespace: str | None, *, selector: str, references: References, wake: Callable[[Key], None]
) -> None:
    """Wake the readers of whatever changes, for ever. A lost watch wakes them all: it may have hidden deletions."""
    since: str | None = None
    while True:
        if since is None:
            for reader in references.readers_of_kind(kind):
                wake(reader)
        try:
            async for event in api.watch(kind, namespace, selector=selector, since=since):
                since = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    for reader in references.readers(key_of(kind, event["object"])):
                        wake(reader)
        except Unavailable as error:
            logger.warning("the watch of %s will be tried again: %s", kind.plural, error)
            await asyncio.sleep(RETRY_SECONDS)
        except Refusal as error:
            since = None
            if error.code != HTTPStatus.GONE:
                logger.warning(
                    "changes of %s given by users are noticed late, at the next check, as their watch is refused: %s",
                    kind.plural,
                    error,
                )
                await asyncio.sleep(REFUSED_SECONDS)
