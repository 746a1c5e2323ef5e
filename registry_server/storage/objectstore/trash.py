"""Contents on their way out of a bucket, and our own small objects in it.

A content is copied here and then removed from its place. Whoever pushes it in between may lose what they have just
written there, but finds the copy here, which is the same; the collector takes back what is referred to before it
empties the trash. That a content was touched is an object of its own, as writing the content again would cost its size.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

from registry_server.reference import Digest, InvalidDigest
from registry_server.storage.contract import StoredBlob
from registry_server.storage.objectstore.bucket import Bucket, Entry

ROOT: Final = ".regatta"


class BucketAside:
    """The contract's `Aside` on a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def read(self, path: str) -> bytes | None:
        return await self._bucket.get(f"{ROOT}/{path}")

    async def write(self, path: str, content: bytes) -> None:
        await self._bucket.put(f"{ROOT}/{path}", content)

    async def create(self, path: str, content: bytes) -> bool:
        return await self._bucket.create(f"{ROOT}/{path}", content)

    async def remove(self, path: str) -> None:
        await self._bucket.delete([f"{ROOT}/{path}"])

    async def written(self, folder: str) -> Mapping[str, float]:
        prefix = f"{ROOT}/{folder}/"
        found: dict[str, float] = {}
        async for entries in self._bucket.below(prefix.rstrip("/")):
            names = ((entry.key.removeprefix(prefix), entry.changed) for entry in entries)
            found.update((name, changed) for name, changed in names if "/" not in name)
        return found


class BucketTrash:
    """The contract's `Trash` on a bucket."""

    def __init__(self, bucket: Bucket, name: str, place: Callable[[Digest], str]) -> None:
        self._bucket = bucket
        self._folder = f"{ROOT}/{name}"
        self._place = place

    async def discard(self, digest: Digest, *, untouched_since: float) -> bool:
        place = await self._bucket.entry(self._place(digest))
        if place is None or max(place.changed, await self.touched(digest)) >= untouched_since:
            return False
        if not await self._bucket.duplicate(place, self._key(digest)):
            return False
        await self._bucket.delete([place.key])
        if await self.touched(digest) >= untouched_since:
            await self.restore(digest)
            return False
        return True

    async def restore(self, digest: Digest) -> bool:
        found = await self._bucket.entry(self._key(digest))
        if found is None or not await self._bucket.duplicate(found, self._place(digest)):
            return False
        await self.purge(digest)
        return True

    async def purge(self, digest: Digest) -> None:
        await self._bucket.delete([self._key(digest)])

    def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        return stored(self._bucket, self._folder)

    def _key(self, digest: Digest) -> str:
        return f"{self._folder}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"

    async def touch(self, digest: Digest) -> None:
        """See `Storage.touch`."""
        await self._bucket.put(_touch(digest), b"")

    async def touches(self) -> Mapping[Digest, float]:
        """The contents that were touched, and when."""
        found: dict[Digest, float] = {}
        async for entries in self._bucket.below(f"{ROOT}/touched"):
            for entry in entries:
                algorithm, name = entry.key.rsplit("/", 2)[-2:]
                found[Digest.parse(f"{algorithm}:{name}")] = entry.changed
        return found

    async def forget_touches(self, before: float) -> None:
        """See `Storage.forget_touches`."""
        async for entries in self._bucket.below(f"{ROOT}/touched"):
            await self._bucket.delete([entry.key for entry in entries if entry.changed < before])

    async def touched(self, digest: Digest) -> float:
        """When a content was touched by `touch`; 0 for never."""
        found = await self._bucket.entry(_touch(digest))
        return 0.0 if found is None else found.changed


async def stored(bucket: Bucket, folder: str) -> AsyncGenerator[Sequence[StoredBlob]]:
    """All contents below a folder of contents, of which each key ends as in distribution's layout."""
    async for entries in bucket.below(folder):
        yield [blob for entry in entries if (blob := _stored(entry)) is not None]


def _stored(entry: Entry) -> StoredBlob | None:
    *_, algorithm, _, name, file = ("", "", "", "", *entry.key.split("/"))
    try:
        if file != "data":
            return None
        return StoredBlob(Digest.parse(f"{algorithm}:{name}"), entry.size, touched=entry.changed)
    except InvalidDigest:
        return None


def _touch(digest: Digest) -> str:
    return f"{ROOT}/touched/{digest.algorithm}/{digest.hex}"
