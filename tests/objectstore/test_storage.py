"""The storage contract, asked of each driver alike: what one process leaves the next one finds."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from registry_server.config import Storage as Settings
from registry_server.jobs.occupancy import storage_time
from registry_server.reference import Digest
from registry_server.storage import open_storage
from registry_server.storage.contract import Storage, StorageError, StoredBlob, Upload, UploadBusy, UploadGone
from registry_server.storage.objectstore.storage import ObjectStorage
from tests.objectstore.stores import Store

Open = Callable[[], Storage]

LINK = b"sha256:" + b"0" * 64
LARGE = [hashlib.shake_128(bytes([number])).digest(1 << 20) for number in range(20)]
"""More than a part of a large object."""


@pytest.fixture(params=["filesystem", "s3", "gcs", "azure", "azure with keys of distribution 2"])
def open_(
    request: pytest.FixtureRequest,
    stores: Callable[[str], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Open:
    """Opens the same storage once more, as another process would."""
    if request.param == "filesystem":
        settings = Settings(filesystem={"rootdirectory": str(tmp_path)})
    else:
        kind, *old = request.param.split(maxsplit=1)
        store = stores(kind)
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        settings = Settings(**store.storage(f"/{tmp_path.name}", keys={"trimlegacyrootprefix": False} if old else {}))
    return lambda: open_storage(settings)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


class TestUploads:
    def test_another_process_goes_on_with_an_upload_and_ends_it(self, open_: Open) -> None:
        async def scenario() -> None:
            first, second, third = open_(), open_(), open_()
            upload_id = await first.start_upload("app")
            assert await _append(first, upload_id, b"one", b" and ") == 8
            assert await _append(second, upload_id, b"two") == 11
            upload = await third.open_upload("app", upload_id)
            assert upload is not None
            assert upload.offset == 11
            upload.lock()
            digest = await upload.digest("sha256")
            assert digest == Digest.of(b"one and two")
            assert await upload.digest("sha512") == Digest.of(b"one and two", "sha512")
            assert await first.blob(digest) is None
            await upload.commit()
            assert await first.read_blob(digest) == b"one and two"
            assert await second.open_upload("app", upload_id) is None
            assert await second.names(f"repositories/app/_uploads/{upload_id}") == []

        run(scenario())

    @pytest.mark.parametrize("requests", [1, 2])
    @pytest.mark.parametrize("same_process", [True, False])
    def test_what_is_larger_than_a_part_comes_out_as_it_went_in(
        self, open_: Open, requests: int, same_process: bool
    ) -> None:
        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            for _ in range(requests):
                await _append(storage, upload_id, *LARGE)
            content = b"".join(LARGE) * requests
            digest = await _finish(storage if same_process else open_(), upload_id)
            assert digest == Digest.of(content)
            blob = await storage.blob(digest)
            assert blob is not None
            assert blob.size == len(content)
            assert b"".join([piece async for piece in storage.read_range(blob, 0, blob.size)]) == content
            assert b"".join([piece async for piece in storage.read_range(blob, 5, 3 << 20)]) == content[5 : 3 << 20]

        run(scenario())

    def test_what_is_larger_than_a_segment_becomes_several(self, open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        """S3 copies nothing above 5 GB; here the limit is a part and a bit."""
        monkeypatch.setattr("registry_server.storage.objectstore.upload.SEGMENT", 7 << 20)

        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            assert await _append(storage, upload_id, *LARGE) == len(LARGE) << 20
            if isinstance(storage, ObjectStorage):
                upload = await storage.open_upload("app", upload_id)
                assert upload is not None
                assert len(upload.segments) == 3
            digest = await _finish(storage, upload_id)
            assert Digest.of(await storage.read_blob(digest) or b"") == digest == Digest.of(b"".join(LARGE))

        run(scenario())

    def test_an_upload_of_nothing_is_the_empty_blob(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            digest = await _finish(storage, await storage.start_upload("app"))
            assert digest == Digest.of(b"")
            assert await storage.read_blob(digest) == b""

        run(scenario())

    def test_of_two_processes_that_add_at_once_one_does(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            results = await asyncio.gather(
                *(_append(open_(), upload_id, content) for content in (b"1111", b"2222", b"3333")),
                return_exceptions=True,
            )
            assert sum(result == 4 for result in results) == 1
            assert sum(isinstance(result, UploadBusy) for result in results) == 2
            digest = await _finish(open_(), upload_id)
            assert digest in {Digest.of(content) for content in (b"1111", b"2222", b"3333")}
            assert Digest.of(await storage.read_blob(digest) or b"") == digest

        run(scenario())

    def test_within_a_process_the_second_writer_learns_it_at_once(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            first, second = await storage.open_upload("app", upload_id), await storage.open_upload("app", upload_id)
            assert first is not None
            assert second is not None
            first.lock()
            with pytest.raises(UploadBusy):
                second.lock()
            second.close()
            first.close()
            again = await storage.open_upload("app", upload_id)
            assert again is not None
            again.lock()
            again.close()

        run(scenario())

    def test_an_upload_that_another_process_has_finished_takes_no_more(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            await _append(storage, upload_id, b"content")
            late = await open_().open_upload("app", upload_id)
            assert late is not None
            digest = await _finish(storage, upload_id)
            with pytest.raises(UploadGone):
                await _lock_and_append(late, b"more")
            assert await storage.read_blob(digest) == b"content"

        run(scenario())

    def test_what_arrived_before_the_body_broke_is_kept(self, open_: Open) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"this much"
            raise ConnectionError

        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            upload = await storage.open_upload("app", upload_id)
            assert upload is not None
            upload.lock()
            with pytest.raises(ConnectionError):
                await upload.append(broken())
            upload.close()
            other = await open_().open_upload("app", upload_id)
            assert other is not None
            assert other.offset == 9
            other.close()
            await _append(storage, upload_id, b" and more")
            assert await _finish(storage, upload_id) == Digest.of(b"this much and more")

        run(scenario())

    def test_a_cancelled_upload_leaves_nothing(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            await _append(storage, upload_id, b"content")
            upload = await storage.open_upload("app", upload_id)
            assert upload is not None
            upload.lock()
            await upload.cancel()
            upload.close()
            assert await open_().open_upload("app", upload_id) is None
            assert await storage.names(f"repositories/app/_uploads/{upload_id}") == []

        run(scenario())

    def test_uploads_that_nobody_touches_are_found_and_dropped(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            ids = {repository: await storage.start_upload(repository) for repository in ("app", "deep/down/app")}
            now = datetime.now(UTC)
            assert await storage.stale_uploads(now - timedelta(hours=1)) == []
            assert sorted(await storage.stale_uploads(now + timedelta(hours=1))) == sorted(ids.items())
            await storage.drop_upload("app", ids["app"])
            assert await storage.stale_uploads(now + timedelta(hours=1)) == [("deep/down/app", ids["deep/down/app"])]

        run(scenario())


class TestFiles:
    def test_they_are_written_read_listed_and_removed(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            assert await storage.read("repositories/a/link") is None
            assert await storage.names("repositories") == []
            await storage.write(("repositories/a/link", b"1"), ("repositories/a/b/link", b"2"))
            await storage.write(("repositories/a/link", b"3"))
            assert await open_().read("repositories/a/link") == b"3"
            assert sorted(await storage.names("repositories/a")) == ["b", "link"]
            for path, there in (("a", True), ("a/link", True), ("a/b", True), ("b", False), ("a/lin", False)):
                assert await storage.exists(f"repositories/{path}") is there, path
            paths = [f"repositories/{path}/link" for path in ("c", "a/b", "a")]
            assert await storage.first_existing(paths) == 1
            assert await storage.first_existing(paths[:1]) is None
            assert await storage.remove("repositories/a/b") is True
            assert await storage.remove("repositories/a/b") is False
            assert await storage.names("repositories/a") == ["link"]

        run(scenario())

    def test_of_several_who_create_one_at_once_one_does(self, open_: Open) -> None:
        async def scenario() -> None:
            storages = [open_() for _ in range(4)]
            for name in ("a", "b", "c"):
                path = f"repositories/{name}/link"
                creating = [storage.create(path, str(number).encode()) for number, storage in enumerate(storages)]
                created = await asyncio.gather(*creating)
                assert sorted(created) == [False, False, False, True]
                assert await open_().read(path) == str(created.index(True)).encode()
                assert await storages[0].create(path, b"late") is False

        run(scenario())

    def test_repositories_are_found_at_every_depth(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            names = ["a", "a/b/c", "b-c", "b/c", "z"]
            for name in names:
                await storage.write((f"repositories/{name}/_manifests/revisions/sha256/x/link", LINK))
            await storage.write(("repositories/blobs-only/_layers/sha256/x/link", LINK))
            assert await storage.walk("repositories", until="_manifests") == names
            assert await storage.walk("repositories", until="_layers") == ["blobs-only"]
            assert await storage.walk("nothing", until="_layers") == []

        run(scenario())

    def test_a_tag_whose_push_was_interrupted_is_not_on_the_list(self, open_: Open) -> None:
        async def scenario() -> None:
            storage = open_()
            tags = "repositories/app/_manifests/tags"
            for name in ("v0", "v1", "v2"):
                links = (f"{tags}/{name}/index/sha256/x/link", LINK), (f"{tags}/{name}/current/link", LINK)
                await storage.write(*links)
            await storage.write((f"{tags}/half/index/sha256/x/link", LINK))
            names, complete = await open_().folders(tags, having="current/link")
            assert sorted(names) == ["v0", "v1", "v2"]
            assert complete is False
            await storage.remove(f"{tags}/v1")
            names, _ = await open_().folders(tags, having="current/link")
            assert sorted(names) == ["v0", "v2"]
            assert await storage.folders("repositories/other/_manifests/tags", having="current/link") == ([], ANY)

        run(scenario())

    def test_it_can_be_checked(self, open_: Open) -> None:
        run(open_().check())


def test_content_that_changed_in_the_bucket_does_not_become_a_blob(
    stores: Callable[[str], Store], tmp_path: Path
) -> None:
    async def scenario() -> None:
        storage = open_storage(Settings(**stores("s3").storage(f"/{tmp_path.name}")))
        assert isinstance(storage, ObjectStorage)
        upload_id = await storage.start_upload("app")
        for _ in range(2):
            await _append(storage, upload_id, *LARGE)
        folder = f"docker/registry/v2/repositories/app/_uploads/{upload_id}"
        _, names = await storage.bucket.folder(folder)
        segment = next(name for name in names if name not in ("state", "startedat"))
        await storage.bucket.put(f"{folder}/{segment}", bytes(len(LARGE) << 20))
        with pytest.raises(StorageError, match="have changed"):
            await _finish(storage, upload_id)
        assert await storage.blob(Digest.of(b"".join(LARGE) * 2)) is None

    run(scenario())


class TestTrash:
    def test_a_content_goes_and_comes_back_to_whoever_asks_for_it(self, open_: Open) -> None:
        async def scenario() -> None:
            storage, content = open_(), Digest.of(b"content")
            await storage.write_blob(content, b"content")
            assert await storage.trash.discard(content, untouched_since=inf)
            assert await storage.in_place(content) is None
            assert await _digests(storage.contents()) == []
            assert await _digests(storage.trash.contents()) == [content]
            blob = await open_().blob(content)
            assert blob is not None
            assert blob.size == 7
            assert await storage.read_blob(content) == b"content"
            assert await _digests(storage.contents()) == [content]
            assert await _digests(storage.trash.contents()) == []

        run(scenario())

    def test_a_manifest_is_read_although_it_is_there(self, open_: Open) -> None:
        async def scenario() -> None:
            storage, content = open_(), Digest.of(b"content")
            await storage.write_blob(content, b"content")
            assert await storage.trash.discard(content, untouched_since=inf)
            assert await open_().read_blob(content) == b"content"

        run(scenario())

    def test_what_was_purged_is_gone(self, open_: Open) -> None:
        async def scenario() -> None:
            storage, content = open_(), Digest.of(b"content")
            await storage.write_blob(content, b"content")
            await storage.trash.discard(content, untouched_since=inf)
            await storage.trash.purge(content)
            assert await storage.blob(content) is None
            assert await storage.read_blob(content) is None
            assert not await storage.trash.restore(content)
            assert not await storage.trash.discard(content, untouched_since=inf)

        run(scenario())

    def test_what_was_written_or_touched_since_stays(self, open_: Open) -> None:
        async def scenario() -> None:
            storage, content = open_(), Digest.of(b"content")
            await storage.write_blob(content, b"content")
            written = await storage_time(storage.aside) - 60
            assert not await storage.trash.discard(content, untouched_since=written)
            await asyncio.sleep(1.1)  # the clocks of stores tick once a second
            later = await storage_time(storage.aside)
            await open_().touch(content)
            assert await _touched(storage, content) >= later - 1
            assert not await storage.trash.discard(content, untouched_since=later - 1)
            assert [blob.touched >= later - 1 async for blobs in storage.contents() for blob in blobs] == [True]

        run(scenario())

    def test_a_content_of_several_parts_comes_back_whole(self, open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        """S3 copies nothing above 5 GB by itself; here the limit is less than what there is."""
        monkeypatch.setattr("registry_server.storage.objectstore.bucket.MOST_COPIED", 1 << 20)

        async def scenario() -> None:
            storage = open_()
            upload_id = await storage.start_upload("app")
            await _append(storage, upload_id, *LARGE)
            digest = await _finish(storage, upload_id)
            assert await storage.trash.discard(digest, untouched_since=inf)
            assert await storage.trash.restore(digest)
            assert Digest.of(await storage.read_blob(digest) or b"") == digest == Digest.of(b"".join(LARGE))

        run(scenario())


class TestAside:
    def test_files_are_written_found_and_removed(self, open_: Open) -> None:
        async def scenario() -> None:
            aside = open_().aside
            await aside.write("folder/one", b"1")
            assert await aside.create("folder/two", b"2")
            assert not await aside.create("folder/two", b"other")
            await aside.write("folder/below/three", b"3")
            assert (await aside.written("folder")).keys() == {"one", "two"}
            assert await aside.read("folder/two") == b"2"
            await aside.remove("folder/two")
            await aside.remove("folder/two")
            assert await aside.read("folder/two") is None
            assert await aside.written("nothing") == {}

        run(scenario())


def test_an_upload_whose_last_bytes_are_old_is_new_when_it_ends(tmp_path: Path) -> None:
    """A client may take its time before it ends an upload; the collector must not take that for the blob's age."""

    async def scenario() -> None:
        storage = open_storage(Settings(filesystem={"rootdirectory": str(tmp_path)}))
        upload_id = await storage.start_upload("app")
        await _append(storage, upload_id, b"content")
        data = tmp_path / f"docker/registry/v2/repositories/app/_uploads/{upload_id}/data"
        os.utime(data, (1, 1))
        digest = await _finish(storage, upload_id)
        assert await _touched(storage, digest) > time.time() - 60

    run(scenario())


async def _digests(contents: AsyncGenerator[Sequence[StoredBlob]]) -> list[Digest]:
    return [blob.digest async for blobs in contents for blob in blobs]


async def _touched(storage: Storage, digest: Digest) -> float:
    blob = await storage.in_place(digest)
    assert blob is not None
    return blob.touched


def test_a_secret_is_the_same_for_all(stores: Callable[[str], Store], tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = Settings(**stores("s3").storage(f"/{tmp_path.name}"))
        opened = [open_storage(settings) for _ in range(4)]
        found = await asyncio.gather(*(one.shared_secret("key") for one in opened if isinstance(one, ObjectStorage)))
        assert len(set(found)) == 1
        assert len(found[0]) == 32

    run(scenario())


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _lock_and_append(upload: Upload, content: bytes) -> None:
    """A file system says at the first that the upload is gone, an object store at the second."""
    try:
        upload.lock()
        await upload.append(_pieces(content))
    finally:
        upload.close()


async def _append(storage: Storage, upload_id: str, *pieces: bytes) -> int:
    """Adds as one request would; returns the bytes received so far."""
    upload = await storage.open_upload("app", upload_id)
    assert upload is not None
    try:
        upload.lock()
        await upload.append(_pieces(*pieces))
        return upload.offset
    finally:
        upload.close()


async def _finish(storage: Storage, upload_id: str) -> Digest:
    upload = await storage.open_upload("app", upload_id)
    assert upload is not None
    try:
        upload.lock()
        digest = await upload.digest("sha256")
        await upload.commit()
        return digest
    finally:
        upload.close()
