"""The registry's services where upstreams stand behind them: what is not here, or may have changed, is asked for.

Repositories that belong to no upstream are the registry's own, and go the usual way.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from registry_server.config.proxy import Proxy
from registry_server.metadata.contract import LinkedBlob, Metadata
from registry_server.metrics import Metrics
from registry_server.proxy.arrivals import Arrivals, ArrivingBlob
from registry_server.proxy.places import Place, Places
from registry_server.proxy.records import Records
from registry_server.proxy.upstream import AWAY, NotThere
from registry_server.reference import CANONICAL, Digest
from registry_server.registry.blobs import Blobs
from registry_server.registry.errors import BlobUnknown, ManifestUnknown, NameUnknown, TooManyRequests
from registry_server.registry.holds import Holds
from registry_server.registry.lists import Lists, Page, Pages
from registry_server.registry.manifest import Manifest
from registry_server.registry.manifests import Manifests
from registry_server.registry.quotas import Quotas
from registry_server.registry.referrers import Referrers
from registry_server.registry.uploads import Uploads, Visible
from registry_server.storage.contract import Storage, StoredBlob

logger = logging.getLogger(__name__)

MOST_QUESTIONS: Final = 1024
"""Manifests a worker asks upstreams for at once; clients who want more are told to come again."""


class CachedManifests(Manifests):
    """Manifests: by digest they never change; a tag is asked for again when it is no longer fresh.

    `local` keeps what is pushed, `cache` what comes from upstreams: a manifest before what it lists, which may never.
    """

    def __init__(
        self,
        local: Manifests,
        cache: Manifests,
        metadata: Metadata,
        *,
        places: Places,
        settings: Proxy,
        confirmed: Records,
        pulled: Records,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local = local
        self._cache = cache
        self._links = metadata
        self._places = places
        self._fresh_for = settings.freshfor.total_seconds()
        self._stale_if_error = settings.staleiferror.total_seconds()
        self._confirmed = confirmed
        self._pulled = pulled
        self._metrics = metrics
        self._clock = clock
        self._asking: dict[tuple[str, str], asyncio.Task[Digest]] = {}

    async def by_tag(self, repository: str, tag: str) -> tuple[Digest, Manifest]:
        place = self._places.of(repository)
        if place is None:
            return await self._local.by_tag(repository, tag)
        tagged = await self._links.tagged(repository, tag)
        digest = None if tagged is None else tagged.digest
        confirmed = None if digest is None else await self._confirmed.when(repository, tag)
        result = "hit"
        if digest is None or confirmed is None or self._clock() - confirmed >= self._fresh_for:
            digest, result = await self._current(place, repository, tag, digest)
        self._metrics.proxy_pull(place.upstream.host, "manifest", result)
        manifest, _ = await self._by_digest(place, repository, digest)
        return digest, manifest

    async def by_digest(self, repository: str, digest: Digest) -> Manifest:
        place = self._places.of(repository)
        if place is None:
            return await self._local.by_digest(repository, digest)
        manifest, result = await self._by_digest(place, repository, digest)
        self._metrics.proxy_pull(place.upstream.host, "manifest", result)
        return manifest

    async def put(self, repository: str, manifest: Manifest, digest: Digest, *, tags: Sequence[str] = ()) -> None:
        self._places.refuse_writing(repository)
        await self._local.put(repository, manifest, digest, tags=tags)

    async def delete(self, repository: str, digest: Digest) -> None:
        self._places.refuse_writing(repository)
        await self._local.delete(repository, digest)

    async def untag(self, repository: str, tag: str) -> None:
        self._places.refuse_writing(repository)
        await self._local.untag(repository, tag)

    async def _by_digest(self, place: Place, repository: str, digest: Digest) -> tuple[Manifest, str]:
        manifest, result = await self._here(repository, digest), "hit"
        if manifest is None:
            await self._once(repository, str(digest), lambda: self._fetch(place, repository, digest))
            manifest, result = await self._cache.by_digest(repository, digest), "miss"
        await self._pulled.note(repository, str(digest))
        return manifest, result

    async def _current(self, place: Place, repository: str, tag: str, known: Digest | None) -> tuple[Digest, str]:
        """The digest a tag points to by now, else the one known as long as that will do; and which of them it is."""
        try:
            digest = await self._once(repository, tag, lambda: self._ask(place, repository, tag, known))
        except AWAY as error:
            if known is None or not await self._will_do(repository, tag):
                raise
            logger.warning("%s:%s is served as it was: %s", repository, tag, error)
            return known, "stale"
        return digest, "hit" if digest == known else "miss"

    async def _will_do(self, repository: str, tag: str) -> bool:
        """Whether a tag that can't be asked for is not too old yet."""
        confirmed = await self._confirmed.when(repository, tag)
        if confirmed is None:
            # Another registry has cached it, so that its age counts from here.
            confirmed = self._clock() - self._fresh_for
            await self._confirmed.note(repository, tag, confirmed)
        return self._clock() - confirmed <= self._stale_if_error

    async def _ask(self, place: Place, repository: str, tag: str, known: Digest | None) -> Digest:
        """The digest the upstream has for a tag, its manifest kept and tagged here."""
        try:
            digest = None if known is None else await place.upstream.find_manifest(place.repository, tag)
            if digest is None or digest != known:
                digest = await self._fetch(place, repository, digest or tag, tags=(tag,))
        except NotThere as error:
            if known is not None:
                await self._links.untag(repository, tag)
            raise ManifestUnknown(detail={"tag": tag}) from error
        await self._confirmed.note(repository, tag)
        return digest

    async def _fetch(
        self, place: Place, repository: str, reference: str | Digest, *, tags: Sequence[str] = ()
    ) -> Digest:
        """Fetch a manifest, unless it is here, and keep it under its digest and tags."""
        manifest = await self._here(repository, reference) if isinstance(reference, Digest) else None
        if isinstance(reference, Digest) and manifest is not None:
            digest = reference
        else:
            digest, content = await place.upstream.manifest(place.repository, reference)
            manifest = Manifest.stored(content)
        await self._cache.put(repository, manifest, digest, tags=tags)
        return digest

    async def _here(self, repository: str, digest: Digest) -> Manifest | None:
        try:
            return await self._cache.by_digest(repository, digest)
        except ManifestUnknown:
            return None

    async def _once(self, repository: str, reference: str, work: Callable[[], Coroutine[Any, Any, Digest]]) -> Digest:
        """Do it once for all who want it at the same time; one who leaves does not stop it for the others.

        Raises ManifestUnknown besides what the upstream is the reason for.
        """
        key = (repository, reference)
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MOST_QUESTIONS:
                raise TooManyRequests("many manifests are being asked for; try again in a moment", retry_after=1)
            task = self._asking[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._answered(key, done))
        try:
            return await asyncio.shield(task)
        except NotThere as error:
            raise ManifestUnknown(detail={"digest": reference}) from error

    def _answered(self, key: tuple[str, str], task: asyncio.Task[Digest]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have left, and asyncio would complain that nobody looked


class CachedBlobs(Blobs):
    """Blobs that come when they are first pulled."""

    def __init__(
        self,
        storage: Storage,
        metadata: Metadata,
        holds: Holds,
        *,
        places: Places,
        arrivals: Arrivals,
        metrics: Metrics,
    ) -> None:
        super().__init__(storage, metadata, holds)
        self._places = places
        self._arrivals = arrivals
        self._metrics = metrics

    async def find(self, repository: str, digest: Digest) -> StoredBlob:
        place = self._places.of(repository)
        if place is None:
            return await super().find(repository, digest)
        try:
            found = await super().find(repository, digest)
            result = "hit"
        except BlobUnknown:
            found, result = await self._fetched(place, repository, digest), "miss"
        self._metrics.proxy_pull(place.upstream.host, "blob", result)
        return found

    async def url(self, blob: StoredBlob) -> str | None:
        return None if isinstance(blob, ArrivingBlob) else await super().url(blob)

    def read(self, blob: StoredBlob, start: int, end: int) -> AsyncGenerator[bytes]:
        return blob.arrival.read(start, end) if isinstance(blob, ArrivingBlob) else super().read(blob, start, end)

    async def size(self, repository: str, digest: Digest) -> int:
        place = self._places.of(repository)
        if place is None:
            return await super().size(repository, digest)
        with suppress(BlobUnknown):
            return (await super().find(repository, digest)).size
        try:
            size = await place.upstream.blob_size(place.repository, digest)
        except NotThere as error:
            raise BlobUnknown(detail={"digest": str(digest)}) from error
        return (await self._fetched(place, repository, digest)).size if size is None else size

    async def delete(self, repository: str, digest: Digest) -> None:
        self._places.refuse_writing(repository)
        await super().delete(repository, digest)

    async def _fetched(self, place: Place, repository: str, digest: Digest) -> StoredBlob:
        return await self._taken_over(place, repository, digest) or await self._arrivals.of(place, repository, digest)

    async def _taken_over(self, place: Place, repository: str, digest: Digest) -> StoredBlob | None:
        """Content that is here for another repository, once the upstream has said that this one holds it, too."""
        blob = await self._storage.blob(digest) if digest.algorithm == CANONICAL else None
        if blob is None:
            return None
        try:
            await place.upstream.blob_size(place.repository, digest)
        except NotThere as error:
            raise BlobUnknown(detail={"digest": str(digest)}) from error
        await self._metadata.link_blobs(repository, [LinkedBlob(digest, blob.size)])
        return blob


class CachedLists(Lists):
    """Tags as the upstream lists them, or as they are here while it can't be asked."""

    def __init__(self, metadata: Metadata, pages: Pages, *, places: Places) -> None:
        super().__init__(metadata, pages)
        self._places = places

    async def tags(self, repository: str, *, count: int | None, after: str) -> Page:
        place = self._places.of(repository)
        if place is None:
            return await super().tags(repository, count=count, after=after)
        most = self._pages.tags if count is None else min(count, self._pages.tags)
        try:
            return await place.upstream.tags(place.repository, count=most, after=after)
        except NotThere as error:
            raise NameUnknown(detail={"name": repository}) from error
        except AWAY as error:
            return await _else(super().tags(repository, count=count, after=after), error)


class CachedReferrers(Referrers):
    """Referrers as the upstream lists them, or those that are here while it can't be asked."""

    def __init__(self, metadata: Metadata, *, places: Places) -> None:
        super().__init__(metadata)
        self._places = places

    async def of(self, repository: str, subject: Digest, *, artifact_type: str | None = None) -> list[dict[str, Any]]:
        place = self._places.of(repository)
        if place is None:
            return await super().of(repository, subject, artifact_type=artifact_type)
        try:
            descriptors = await place.upstream.referrers(place.repository, subject)
        except AWAY:
            return await super().of(repository, subject, artifact_type=artifact_type)
        if artifact_type is None:
            return descriptors
        return [one for one in descriptors if one.get("artifactType") == artifact_type]


class CachedUploads(Uploads):
    """Uploads into the registry's own repositories."""

    def __init__(self, storage: Storage, metadata: Metadata, quotas: Quotas, holds: Holds, *, places: Places) -> None:
        super().__init__(storage, metadata, quotas, holds)
        self._places = places

    async def start(self, repository: str) -> str:
        self._places.refuse_writing(repository)
        return await super().start(repository)

    async def mount(self, repository: str, digest: Digest, *, source: str | None, visible: Visible) -> str | None:
        self._places.refuse_writing(repository)
        return await super().mount(repository, digest, source=source, visible=visible)


async def _else(local: Awaitable[Page], error: Exception) -> Page:
    """What is here, if anything is; else why it can't be had."""
    try:
        return await local
    except NameUnknown:
        raise error from None
