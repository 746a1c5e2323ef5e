"""Uploads: how a blob comes into a repository.

A session lives in storage, so whichever process gets the next request goes on with it. Nothing is a blob before its
digest was compared.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from registry_server.metadata.contract import LinkedBlob, Metadata
from registry_server.reference import CANONICAL, Digest
from registry_server.registry.errors import (
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    RangeInvalid,
    SizeInvalid,
    TooManyRequests,
)
from registry_server.registry.holds import Holds
from registry_server.registry.quotas import Quotas
from registry_server.storage.contract import Storage, Upload, UploadBusy, UploadGone

Visible = Callable[[str], bool]
"""Whether the asker may read a repository."""

logger = logging.getLogger(__name__)

_UPLOAD_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a blob, as one request brings it."""

    body: AsyncIterable[bytes]
    length: int | None = None
    """Bytes the request announced; None when it did not."""
    span: tuple[int, int] | None = None
    """First and last byte within the blob, when the request told."""

    @property
    def announced(self) -> int:
        """Bytes it will bring, as far as is known."""
        return self.length if self.length is not None else self.span[1] - self.span[0] + 1 if self.span else 0


class Uploads:
    """The sessions of all repositories."""

    def __init__(
        self, storage: Storage, metadata: Metadata, quotas: Quotas | None = None, holds: Holds | None = None
    ) -> None:
        self._storage = storage
        self._metadata = metadata
        self._quotas = quotas or Quotas(metadata)
        self._holds = holds or Holds(storage, metadata)

    async def start(self, repository: str) -> str:
        """Begin a session; returns its id. Raises Denied where the repository may take nothing more."""
        await self._quotas.check(repository, size=1)
        return await self._storage.start_upload(repository)

    async def mount(self, repository: str, digest: Digest, *, source: str | None, visible: Visible) -> str | None:
        """Take over a blob from another repository: from `source`, or from any that holds it when that is not said.

        Returns where it came from, None if it did not. It is taken only from where the asker may read; zot PR #4166
        tells of the leak otherwise. Raises Denied where the repository may not take so much more.
        """
        if source is None:
            if digest.algorithm == CANONICAL and await self._storage.blob(digest) is None:
                return None  # known nowhere: spares the search
            source = await self._metadata.holder(digest, visible=visible)
        elif not visible(source):
            return None
        blob = None if source is None else await self._holds.blob(source, digest)
        if blob is None:
            return None
        async with self._quotas.room(repository, size=await self._added(repository, blob.digest, blob.size)):
            await self._metadata.link_blobs(repository, [LinkedBlob(blob.digest, blob.size, _aliases(digest))])
        return source

    async def offset(self, repository: str, upload_id: str) -> int:
        """Bytes received so far. Raises BlobUploadUnknown."""
        with await self._open(repository, upload_id) as upload:
            return upload.offset

    async def append(self, repository: str, upload_id: str, chunk: Chunk) -> int:
        """Add a chunk; returns the bytes received so far.

        Raises BlobUploadUnknown, RangeInvalid, SizeInvalid, BlobUploadInvalid, TooManyRequests, Denied. The session
        stays.
        """
        with await self._open(repository, upload_id) as upload:
            upload.lock()
            await self._quotas.check(repository, size=upload.offset + chunk.announced)
            await _append(upload, chunk)
            return upload.offset

    async def finish(self, repository: str, upload_id: str, chunk: Chunk, digest: Digest) -> None:
        """Add the last chunk and make the whole a blob of the repository.

        Raises what `append` raises, and DigestInvalid, which ends the session, as Denied does here.
        """
        with await self._open(repository, upload_id) as upload:
            upload.lock()
            try:
                await self._finish(upload, repository, chunk, digest)
            except (DigestInvalid, Denied):
                await upload.cancel()
                raise

    async def _finish(self, upload: Upload, repository: str, chunk: Chunk, digest: Digest) -> None:
        announced = await self._added(repository, digest, upload.offset + chunk.announced)
        await self._quotas.check(repository, size=announced)
        await _append(upload, chunk)
        content = await upload.digest(CANONICAL)
        found = content if digest.algorithm == CANONICAL else await upload.digest(digest.algorithm)
        if found != digest:
            raise DigestInvalid(detail={"digest": str(digest), "found": str(found)})
        size = upload.offset
        async with self._quotas.room(repository, size=await self._added(repository, content, size)):
            await upload.commit()
            await self._metadata.link_blobs(repository, [LinkedBlob(content, size, _aliases(digest))])

    async def _added(self, repository: str, digest: Digest, size: int) -> int:
        """Bytes that a blob adds to what a repository takes of its quotas: none where it is held already."""
        new = self._quotas.of(repository) and await self._metadata.linked_blob(repository, digest) is None
        return size if new else 0

    async def cancel(self, repository: str, upload_id: str) -> None:
        """Drop a session. Raises BlobUploadUnknown, TooManyRequests."""
        with await self._open(repository, upload_id) as upload:
            upload.lock()
            await upload.cancel()

    async def purge(self, *, age: timedelta, dry_run: bool) -> None:
        """Drop the sessions that nothing was added to for `age`."""
        before = datetime.now(UTC) - age
        for repository, upload_id in await self._storage.stale_uploads(before):
            logger.info("upload %s of %s is unfinished since before %s", upload_id, repository, before.isoformat())
            if not dry_run:
                await self._purge(repository, upload_id)

    async def _purge(self, repository: str, upload_id: str) -> None:
        try:
            await self.cancel(repository, upload_id)
        except TooManyRequests:
            logger.info("upload %s goes on after all", upload_id)
        except BlobUploadUnknown:
            await self._storage.drop_upload(repository, upload_id)

    async def _open(self, repository: str, upload_id: str) -> AbstractContextManager[Upload]:
        valid = _UPLOAD_ID.fullmatch(upload_id)
        upload = await self._storage.open_upload(repository, upload_id) if valid else None
        if upload is None:
            raise BlobUploadUnknown(detail={"upload": upload_id[:64]})
        return _held(upload)


@contextmanager
def _held(upload: Upload) -> Generator[Upload]:
    try:
        yield upload
    except UploadBusy as error:
        raise TooManyRequests(
            "another request is writing to this upload; ask for its status and go on from there"
        ) from error
    except UploadGone as error:
        raise BlobUploadUnknown from error
    finally:
        upload.close()


async def _append(upload: Upload, chunk: Chunk) -> None:
    """Add a chunk where it belongs. What arrived of one that broke is kept: the client asks where to go on."""
    expected = chunk.length
    if chunk.span is not None:
        first, last = chunk.span
        if first != upload.offset:
            raise RangeInvalid(
                f"the upload holds {upload.offset} bytes; the next chunk must begin there", {"offset": upload.offset}
            )
        if expected is not None and expected != last - first + 1:
            raise SizeInvalid(f"Content-Range spans {last - first + 1} bytes, Content-Length says {expected}")
        expected = last - first + 1
    async with aclosing(_at_most(chunk.body, expected)) as body:
        received = await upload.append(body)
    if expected is not None and received < expected:
        raise BlobUploadInvalid(f"the body ended after {received} of {expected} bytes", {"offset": upload.offset})


async def _at_most(body: AsyncIterable[bytes], limit: int | None) -> AsyncGenerator[bytes]:
    remaining = limit
    async for piece in body:
        if remaining is not None:
            remaining -= len(piece)
            if remaining < 0:
                raise SizeInvalid(f"the body has more than the {limit} bytes of its range")
        yield piece


def _aliases(digest: Digest) -> Sequence[Digest]:
    return () if digest.algorithm == CANONICAL else (digest,)
