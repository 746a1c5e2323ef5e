"""Contents from one storage into another, each verified on its way."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from registry_server.jobs.occupancy import Lease
from registry_server.parallel import in_parallel
from registry_server.reference import CANONICAL, Digest
from registry_server.storage.contract import Storage, StoredBlob

AT_ONCE: Final = 4
"""Contents that are copied at a time: they come in megabytes, and others use the storage as well."""
SMALL: Final = 1 << 20
"""Bytes up to which a content is read and written at once."""
REPOSITORY: Final = "regatta-transfer"
"""Where larger ones are while they are on their way; nothing is ever linked there."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be copied."""

    contents: int
    bytes: int
    of_contents: int
    """All that there are."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A content was copied."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something can't be kept, or brought back."""

    text: str


class Damaged(Exception):
    """A content is not there, or is not what its digest says; the message says which of the two."""


async def copy(source: Storage, target: Storage, digest: Digest) -> int:
    """Copy a content, also over one of its name that is damaged; returns its bytes. Raises Damaged, StorageError."""
    blob = await source.blob(digest)
    if blob is None:
        raise Damaged("is not in storage")
    if blob.size <= SMALL:
        content = await source.read_blob(digest)
        if content is None or Digest.of(content) != digest:
            raise Damaged("is damaged in storage")
        await target.write_blob(digest, content)
    else:
        await _copy_large(source, target, blob)
    return blob.size


async def is_whole(storage: Storage, digest: Digest) -> bool:
    """Whether a content is there, and what its digest says. Reads all of it."""
    blob = await storage.blob(digest)
    return blob is not None and await digest_of(storage, blob) == digest


async def digest_of(
    storage: Storage, blob: StoredBlob, *, pace: Callable[[int], Awaitable[None]] | None = None
) -> Digest:
    """The digest of a content as it is; `pace` waits as long as so many bytes should take."""
    hasher = hashlib.new(CANONICAL)
    async with aclosing(storage.read_range(blob, 0, blob.size)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(hasher.update, piece)
            if pace is not None:
                await pace(len(piece))
    return Digest.from_hasher(hasher)


async def clean_up(storage: Storage) -> None:
    """Remove what copies have left that were broken off."""
    for upload_id in await storage.names(f"repositories/{REPOSITORY}/_uploads"):
        await storage.drop_upload(REPOSITORY, upload_id)
    await storage.prune(f"repositories/{REPOSITORY}")


async def _copy_large(source: Storage, target: Storage, blob: StoredBlob) -> None:
    upload = await target.open_upload(REPOSITORY, await target.start_upload(REPOSITORY))
    assert upload is not None  # noqa: S101  (it has begun just now)
    try:
        upload.lock()
        async with aclosing(source.read_range(blob, 0, blob.size)) as pieces:
            await upload.append(pieces)
        if await upload.digest(CANONICAL) != blob.digest:
            await upload.cancel()
            raise Damaged("is damaged in storage")
        await upload.commit()
    finally:
        upload.close()


async def copy_all(
    source: Storage, target: Storage, digests: Sequence[Digest], lease: Lease
) -> AsyncGenerator[Copied | Problem]:
    """Copy contents, and tell of each. Raises LeaseLost, StorageError."""

    async def one(digest: Digest) -> Copied | Problem:
        try:
            return Copied(digest, await copy(source, target, digest))
        except Damaged as error:
            return Problem(f"{digest} {error}")

    for start in range(0, len(digests), AT_ONCE):
        lease.check()
        for event in await in_parallel(one, digests[start : start + AT_ONCE]):
            yield event
