"""The storage contract on a bucket.

A folder is what keys have in common. Uploads are in `upload.py`.
"""

import asyncio
import logging
import secrets
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from registry_server.config import Drivers
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.storage.contract import StoredBlob
from registry_server.storage.objectstore.bucket import Bucket, Clients
from registry_server.storage.objectstore.connect import connect
from registry_server.storage.objectstore.trash import BucketAside, BucketTrash, stored
from registry_server.storage.objectstore.upload import ObjectUpload, Progress, State
from registry_server.storage.observing import Observer, unobserved

logger = logging.getLogger(__name__)

KEPT_HASHERS: Final = 4096
"""Uploads whose hash state a process keeps; others are read back and hashed when they end."""


def open_bucket(settings: Drivers, *, observe: Observer = unobserved) -> "ObjectStorage":
    """The storage that is configured. Makes no request."""
    store = settings.s3 or settings.gcs or settings.azure
    assert store is not None  # noqa: S101  (the configuration has exactly one driver)
    return ObjectStorage(connect(settings), store.rootdirectory, observe=observe)


class ObjectStorage:
    """The storage contract on an object store."""

    def __init__(self, clients: Clients, root_directory: str, *, observe: Observer = unobserved) -> None:
        self.bucket = Bucket(clients, root_directory.strip("/"), observe)
        self.root = "docker/registry/v2"
        self.hashers: OrderedDict[str, Progress] = OrderedDict()
        self.aside = BucketAside(self.bucket)
        self.trash = BucketTrash(self.bucket, "trash", self.blob_key)
        self.quarantine = BucketTrash(self.bucket, "quarantine", self.blob_key)
        self.writing: set[str] = set()
        """Folders of the uploads that requests of this process are writing to."""

    async def blob(self, digest: Digest) -> StoredBlob | None:
        key = self.blob_key(digest)
        found = await self.bucket.entry(key)
        if found is None and await self.trash.restore(digest):
            found = await self.bucket.entry(key)
        return None if found is None else StoredBlob(digest, found.size, touched=found.changed)

    async def read_blob(self, digest: Digest) -> bytes | None:
        key = self.blob_key(digest)
        content = await self.bucket.get(key)
        return await self.bucket.get(key) if content is None and await self.trash.restore(digest) else content

    async def in_place(self, digest: Digest) -> StoredBlob | None:
        found = await self.bucket.entry(self.blob_key(digest))
        if found is None:
            return None
        return StoredBlob(digest, found.size, touched=max(found.changed, await self.trash.touched(digest)))

    async def touch(self, digest: Digest) -> None:
        await self.trash.touch(digest)

    async def forget_touches(self, before: float) -> None:
        await self.trash.forget_touches(before)

    async def contents(self) -> AsyncGenerator[Sequence[StoredBlob]]:
        touched = await self.trash.touches()
        async for blobs in stored(self.bucket, f"{self.root}/blobs"):
            yield [replace(blob, touched=max(blob.touched, touched.get(blob.digest, 0.0))) for blob in blobs]

    async def blob_url(self, blob: StoredBlob) -> str | None:
        return await self.bucket.url(self.blob_key(blob.digest))

    def read_range(self, blob: StoredBlob, start: int, end: int) -> AsyncGenerator[bytes]:
        return self.bucket.read(self.blob_key(blob.digest), start, end)

    async def write_blob(self, digest: Digest, content: bytes) -> None:
        await self.bucket.put(self.blob_key(digest), content)

    async def start_upload(self, repository: str) -> str:
        upload_id = str(uuid.uuid4())
        folder = self._upload_folder(repository, upload_id)
        # distribution purges by this file, should it take the bucket over.
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        await asyncio.gather(
            self.bucket.put(f"{folder}/startedat", started),
            self.bucket.put(f"{folder}/{State.NAME}", State().dump()),
        )
        return upload_id

    async def open_upload(self, repository: str, upload_id: str) -> ObjectUpload | None:
        folder = self._upload_folder(repository, upload_id)
        found = await self.bucket.get_version(f"{folder}/{State.NAME}")
        return None if found is None else ObjectUpload(self, folder, State.load(found[0]), found[1])

    async def drop_upload(self, repository: str, upload_id: str) -> None:
        await self._remove(self._upload_folder(repository, upload_id))

    async def stale_uploads(self, before: datetime) -> list[tuple[str, str]]:
        repositories = await self.walk("repositories", until="_uploads")
        stale = await in_parallel(lambda repository: self._stale(repository, before.timestamp()), repositories)
        return [
            (repository, upload) for repository, uploads in zip(repositories, stale, strict=True) for upload in uploads
        ]

    async def _stale(self, repository: str, before: float) -> list[str]:
        folder = f"{self.root}/repositories/{repository}/_uploads"
        touched: dict[str, float] = {}
        async for entries in self.bucket.below(folder):
            for entry in entries:
                upload = entry.key.removeprefix(f"{folder}/").partition("/")[0]
                touched[upload] = max(touched.get(upload, 0.0), entry.changed)
        return [upload for upload, at in touched.items() if at < before]

    async def read(self, path: str) -> bytes | None:
        return await self.bucket.get(f"{self.root}/{path}")

    async def write(self, *files: tuple[str, bytes]) -> None:
        for path, content in files:
            await self.bucket.put(f"{self.root}/{path}", content)

    async def create(self, path: str, content: bytes) -> bool:
        return await self.bucket.create(f"{self.root}/{path}", content)

    async def exists(self, path: str) -> bool:
        key = f"{self.root}/{path}"
        async with aclosing(self.bucket.below(key)) as objects:
            async for _ in objects:
                return True
        return await self.bucket.size(key) is not None

    async def modified(self, path: str) -> float | None:
        found = await self.bucket.entry(f"{self.root}/{path}")
        return None if found is None else found.changed

    async def first_existing(self, paths: Sequence[str]) -> int | None:
        async def is_there(path: str) -> bool:
            return await self.bucket.size(f"{self.root}/{path}") is not None

        return next((index for index, found in enumerate(await in_parallel(is_there, paths)) if found), None)

    async def version(self, path: str) -> object | None:
        return None

    async def names(self, path: str) -> list[str]:
        folders, objects = await self.bucket.folder(f"{self.root}/{path}")
        return folders + objects

    async def folders(self, path: str, *, having: str) -> tuple[list[str], bool]:
        """From one list of all that is below, whose keys say it: asking for each folder would take a request each."""
        found: list[str] = []
        prefix, suffix = f"{self.root}/{path}/", f"/{having}"
        async for entries in self.bucket.below(f"{self.root}/{path}"):
            names = (
                entry.key.removeprefix(prefix).removesuffix(suffix) for entry in entries if entry.key.endswith(suffix)
            )
            found += [name for name in names if "/" not in name]
        return found, False

    async def walk(self, path: str, *, until: str) -> list[str]:
        found: list[str] = []
        level = [""]
        while level:
            listed = await in_parallel(lambda prefix: self.bucket.folder(f"{self.root}/{path}/{prefix}"), level)
            below: list[str] = []
            for prefix, (folders, _) in zip(level, listed, strict=True):
                if until in folders:
                    found.append(prefix.rstrip("/"))
                below += [f"{prefix}{name}/" for name in folders if not name.startswith("_")]
            level = below
        return sorted(found)

    async def remove(self, path: str) -> bool:
        return await self._remove(f"{self.root}/{path}")

    async def _remove(self, folder: str) -> bool:
        """What makes the rest count goes first: the `current/link` of a tag, the state of an upload."""
        found = False
        async for entries in self.bucket.below(folder):
            keys = [entry.key for entry in entries]
            first = [key for key in keys if key.endswith(("/current/link", f"/{State.NAME}"))]
            if len(first) < len(keys):
                await self.bucket.delete(first)
            await self.bucket.delete([key for key in keys if key not in first] or first)
            found = True
        return found

    async def prune(self, path: str) -> None:
        """A folder is what keys have in common, so there is none without a file."""

    async def check(self) -> None:
        """Whether the bucket can be listed: one cheap request, as it is made all the time."""
        await self.bucket.folder("docker/registry")

    async def try_writing(self) -> None:
        """Write a small object and remove it. Raises StorageError, and StorageRefused for what can't be served."""
        await self.bucket.accept()
        name = f"check-{secrets.token_hex(8)}"
        await self.aside.write(name, b"check")
        await self.aside.remove(name)

    async def shared_secret(self, name: str) -> bytes:
        found = await self.aside.read(name)
        if found is None:
            await self.aside.create(name, secrets.token_bytes(32))
        return found or await self.aside.read(name) or b""

    def blob_key(self, digest: Digest) -> str:
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"

    def _upload_folder(self, repository: str, upload_id: str) -> str:
        return f"{self.root}/repositories/{repository}/_uploads/{upload_id}"

    def keep(self, folder: str, progress: Progress) -> None:
        """Keep the hash state of an upload for its next request."""
        self.hashers[folder] = progress
        while len(self.hashers) > KEPT_HASHERS:
            self.hashers.popitem(last=False)
