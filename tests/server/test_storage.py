"""What only storage itself can be asked: races between workers that are too short to be met over HTTP."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import Digest
from registry_server.storage.contract import StorageError, StorageFull, UploadBusy, UploadGone
from registry_server.storage.filesystem import FilesystemStorage


def test_an_upload_opened_before_another_worker_finished_it_cannot_touch_the_blob(tmp_path: Path) -> None:
    async def scenario() -> bytes | None:
        first, second = FilesystemStorage(str(tmp_path)), FilesystemStorage(str(tmp_path))
        upload_id = await first.start_upload("app")
        winner, late = await first.open_upload("app", upload_id), await second.open_upload("app", upload_id)
        assert winner is not None
        assert late is not None
        winner.lock()
        await winner.append(_pieces(b"content"))
        with pytest.raises(UploadBusy):
            late.lock()
        await winner.commit()
        with pytest.raises(UploadGone):
            late.lock()
        late.close()
        return await second.read_blob(Digest.of(b"content"))

    assert asyncio.run(scenario()) == b"content"


def test_a_locked_upload_knows_what_others_have_added_since_it_was_opened(tmp_path: Path) -> None:
    async def scenario() -> int:
        first, second = FilesystemStorage(str(tmp_path)), FilesystemStorage(str(tmp_path))
        upload_id = await first.start_upload("app")
        early, late = await first.open_upload("app", upload_id), await second.open_upload("app", upload_id)
        assert early is not None
        assert late is not None
        early.lock()
        await early.append(_pieces(b"content"))
        early.close()
        late.lock()
        late.close()
        return late.offset

    assert asyncio.run(scenario()) == len(b"content")


def test_lists_follow_changes_that_are_faster_than_a_file_systems_clock(tmp_path: Path) -> None:
    """They are kept for as long as a folder's modification time stays, which ticks every few milliseconds only."""

    async def scenario() -> None:
        storage = FilesystemStorage(str(tmp_path))
        metadata = LayoutMetadata(storage)
        manifests = Path(storage.root) / "repositories/app/_manifests"
        for number in range(300):
            tag, digest = manifests / f"tags/v{number}/current", manifests / f"revisions/sha256/{number:064}"
            for folder in (tag, digest):
                folder.mkdir(parents=True)
                (folder / "link").write_text(f"sha256:{number:064}")
            assert len(await metadata.tags("app") or ()) == number + 1
            version, digests = await metadata.manifests("app")
            assert len(digests) == number + 1
            assert version is None  # too young to tell it from the next one

    asyncio.run(scenario())


def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise OSError(number, "told by the kernel")

    async def scenario() -> None:
        storage = FilesystemStorage(str(tmp_path))
        for number, error in ((errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageError)):
            with pytest.raises(StorageError) as raised:
                await storage._in_thread("fail", fail, number)
            assert type(raised.value) is error

    asyncio.run(scenario())


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
