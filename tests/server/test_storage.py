"""What only storage itself can be asked: races between workers that are too short to be met over HTTP."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import Digest
from registry_server.registry.manifest import understand
from registry_server.storage import durable
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
        metadata = LayoutMetadata(storage, understand)
        manifests = Path(storage.root) / "repositories/app/_manifests"
        subject = {"digest": str(Digest.of(b"")), "size": 1}
        for number in range(300):
            content = json.dumps({"manifests": [], "number": number, "subject": subject}).encode()
            digest = Digest.of(content)
            for path, text in (
                (manifests / f"tags/v{number}/current/link", str(digest).encode()),
                (Path(storage.root) / f"blobs/sha256/{digest.hex[:2]}/{digest.hex}/data", content),
                (manifests / f"revisions/sha256/{digest.hex}/link", str(digest).encode()),
            ):
                path.parent.mkdir(parents=True)
                path.write_bytes(text)
            assert len(await metadata.tags("app", after="", limit=1000) or ()) == number + 1
            assert len(await metadata.referrers("app", Digest.of(b""))) == number + 1

    asyncio.run(scenario())


def test_a_folder_is_removed_with_what_others_replace_in_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a push does that follows a deletion of the same tag."""
    folder, real_open = tmp_path / "tag", os.open
    replaced = []

    def replace_then_open(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "index" and not replaced:
            replaced.append((folder / "index").rename(tmp_path / "replaced"))
            (folder / "index").mkdir()
        return real_open(path, flags, *args, **kwargs)

    (folder / "index").mkdir(parents=True)
    monkeypatch.setattr(os, "open", replace_then_open)
    assert durable.remove_tree(str(folder))
    assert replaced
    assert not folder.exists()


def test_a_folder_is_removed_although_others_remove_parts_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real_open = tmp_path / "tag", os.open

    def remove_then_open(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "index":
            (folder / "index").rmdir()
        return real_open(path, flags, *args, **kwargs)

    (folder / "index").mkdir(parents=True)
    (folder / "link").touch()
    monkeypatch.setattr(os, "open", remove_then_open)
    assert durable.remove_tree(str(folder))
    assert not folder.exists()


def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise OSError(number, "told by the kernel")

    async def scenario() -> None:
        storage = FilesystemStorage(str(tmp_path))
        for number, error in ((errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageError)):
            with pytest.raises(StorageError) as raised:
                await storage.threads.run("fail", fail, number)
            assert type(raised.value) is error

    asyncio.run(scenario())


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
