"""A pull-through cache whose content lies in an object store."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.objectstore.conftest import Serve
from tests.objectstore.stores import Store
from tests.server.content import Repository, digest_of
from tests.server.live import serving
from tests.server.meddler import Meddler


def test_what_is_pulled_is_kept_in_the_store(serve: Serve, tmp_path: Path) -> None:
    """Two workers and a second server find it there, also when the upstream is away."""
    with serving(tmp_path / "upstream") as upstream, Meddler(upstream.address) as meddler:
        layer = os.urandom(12 << 20)
        manifest = Repository(upstream.client(), "team/app").push_image("1", layers=[layer])
        cache = serve({"proxy": {"remoteurl": meddler.url}}, workers=2)
        cached = Repository(cache.client(), "team/app")
        assert cached.get_manifest("1").content == manifest
        for _ in range(2):
            assert cached.get_blob(digest_of(layer)).content == layer
        assert meddler.count("GET .*/blobs/") == 1
        meddler.harm(".", status=500)
        cache.kill()
        cache.start()
        again = Repository(cache.client(), "team/app")
        assert again.get_manifest("1").content == manifest
        assert again.get_blob(digest_of(layer)).content == layer
        assert again.tags() == ["1"]


def test_what_is_in_the_store_is_redirected_to_and_what_arrives_is_streamed(
    stores: Callable[[str], Store], tmp_path: Path
) -> None:
    with ExitStack() as running:
        upstream = running.enter_context(serving(tmp_path / "upstream"))
        layer = os.urandom(1 << 20)
        Repository(upstream.client(), "app").push_blob(layer)
        settings = {"storage": stores("s3").storage(f"/{tmp_path.name}"), "proxy": {"remoteurl": upstream.url}}
        cache = running.enter_context(serving(tmp_path / "cache", settings))
        path = f"/v2/app/blobs/{digest_of(layer)}"
        first, second = cache.client().get(path), cache.client().get(path)
        assert (first.status_code, first.content) == (200, layer)
        assert second.status_code == 307
        assert urlsplit(second.headers["location"]).netloc != cache.address
        assert httpx.get(second.headers["location"]).content == layer
