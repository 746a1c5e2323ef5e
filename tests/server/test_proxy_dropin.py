"""A cache's volume between distribution and us, both ways; and what a killed server leaves beside it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from registry_server.metadata.layout import LayoutMetadata
from registry_server.proxy.arrivals import FORGOTTEN, Arrivals
from registry_server.registry.manifest import understand
from registry_server.registry.uploads import Uploads
from registry_server.storage.filesystem import FilesystemStorage
from tests.fixtures.processes import free_port, server
from tests.server.conftest import Serve
from tests.server.content import OCI_MANIFEST, Repository, digest_of
from tests.server.live import LiveRegistry, until
from tests.server.meddler import Meddler


@pytest.fixture
def meddler(registry: LiveRegistry) -> Iterator[Meddler]:
    with Meddler(registry.address) as meddler:
        yield meddler


def test_what_distribution_has_cached_is_served_while_the_upstream_is_away(
    serve: Serve, distribution: Path, meddler: Meddler, repository: Repository, tmp_path: Path
) -> None:
    manifest = repository.push_image("1", layers=[b"layer"])
    data = tmp_path / "data"
    with _distribution(distribution, tmp_path, data, {"proxy": {"remoteurl": meddler.url}}) as client:
        cached = Repository(client, repository.name)
        assert cached.get_blob(digest_of(b"layer")).content == b"layer"
        accept = {"accept": OCI_MANIFEST}
        assert client.get(f"{cached.path}/manifests/1", headers=accept).content == manifest
        # It stores what it has served a moment later.
        until(lambda: list(data.glob(f"**/_manifests/**/{digest_of(manifest)[7:]}/link")), "the manifest is kept")
        until(lambda: list(data.glob(f"**/_layers/**/{digest_of(b'layer')[7:]}/link")), "the layer is kept")
    meddler.harm(".", status=500)
    settings = {"storage": {"filesystem": {"rootdirectory": str(data)}}, "proxy": {"remoteurl": meddler.url}}
    ours = Repository(serve(settings).client(), repository.name)
    assert ours.get_manifest("1").content == manifest
    assert ours.get_blob(digest_of(b"layer")).content == b"layer"


def test_what_we_have_cached_is_served_by_distribution(
    serve: Serve, distribution: Path, meddler: Meddler, repository: Repository, tmp_path: Path
) -> None:
    manifest = repository.push_image("1", layers=[b"layer"])
    cache = serve({"proxy": {"remoteurl": meddler.url}})
    ours = Repository(cache.client(), repository.name)
    assert ours.get_manifest("1").content == manifest
    for blob in (b"{}", b"layer"):
        assert ours.get_blob(digest_of(blob)).content == blob
    cache.stop()
    with _distribution(distribution, tmp_path, cache.data, {}) as client:
        accept = {"accept": OCI_MANIFEST}
        path = f"/v2/{repository.name}"
        assert client.get(f"{path}/manifests/1", headers=accept).content == manifest
        assert client.get(f"{path}/blobs/{digest_of(b'layer')}").content == b"layer"
        assert client.get("/v2/_catalog").json()["repositories"] == [repository.name]


def test_a_spool_folder_that_was_removed_is_made_again(serve: Serve, meddler: Meddler, repository: Repository) -> None:
    digest = repository.push_blob(b"content")
    cache = serve({"proxy": {"remoteurl": meddler.url}})
    (spool,) = (cache.data / ".regatta" / "spool").iterdir()
    spool.rmdir()
    assert Repository(cache.client(), repository.name).get_blob(digest).content == b"content"


def test_only_what_a_killed_server_has_left_is_removed(tmp_path: Path) -> None:
    """Whatever folder it was that someone chose for the spool."""
    old = time.time() - FORGOTTEN - 60
    files = {name: tmp_path / name for name in ("gone/a.arriving", "here/b.arriving", "here/c.arriving", "other/d.txt")}
    for file in files.values():
        file.parent.mkdir(exist_ok=True)
        file.touch()
    for name in ("gone/a.arriving", "here/b.arriving", "other/d.txt"):
        os.utime(files[name], (old, old))
    storage = FilesystemStorage(str(tmp_path / "data"))
    metadata = LayoutMetadata(storage, understand)
    Arrivals(Uploads(storage, metadata), metadata, tmp_path / "here").remove_forgotten()
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["c.arriving", "d.txt"]
    assert not (tmp_path / "gone").exists()


@contextmanager
def _distribution(program: Path, folder: Path, data: Path, more: dict[str, object]) -> Iterator[httpx.Client]:
    port = free_port()
    config = folder / "distribution.yml"
    storage = {"filesystem": {"rootdirectory": str(data)}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}, **more}))
    with server(program, "serve", config, log=folder / "distribution.log") as running:
        running.await_port("127.0.0.1", port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
