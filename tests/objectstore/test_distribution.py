"""distribution on the same bucket: each serves what the other wrote, and goes on with it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from tests.fixtures.processes import free_port, server
from tests.objectstore.stores import EMPTY, Store, azure_request, distribution_config
from tests.server.content import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Repository, digest_of, image
from tests.server.live import LiveRegistry, serving
from tests.server.test_layout import DOCKER_IMAGE, LAYERS, _assert_served, _get, _push_to


@pytest.fixture(params=["", "/below/a/root"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root directory, at the bucket's own and below it."""
    return f"{request.param}/{tmp_path.name}"


@pytest.fixture(params=["s3", "azure"])
def written(request: pytest.FixtureRequest, stores: Callable[[str], Store]) -> Store:
    """A store that distribution can write to: blobs go to www.googleapis.com even where a GCS emulator is named."""
    return stores(request.param)


@contextmanager
def _ours(shared: Store, root: str, folder: Path, keys: Mapping[str, Any] = EMPTY) -> Iterator[LiveRegistry]:
    storage = shared.storage(root, keys=keys, redirect={"disable": True})
    with serving(folder / "ours", {"storage": storage}, environ=shared.environ) as registry:
        yield registry


@contextmanager
def _theirs(distribution: Path, shared: Store, root: str, folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    config = folder / "distribution.yml"
    config.write_text(distribution_config(shared, root, f"127.0.0.1:{port}"))
    variables = [f"{name}={value}" for name, value in {**shared.environ, **shared.peer_environ}.items()]
    with server("env", *variables, distribution, "serve", config, log=folder / "distribution.log") as running:
        running.await_port("127.0.0.1", port)
        accept = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"accept": accept}, timeout=60) as client:
            yield client


def test_it_serves_what_we_wrote(shared: Store, root: str, distribution: Path, tmp_path: Path) -> None:
    with _ours(shared, root, tmp_path) as registry:
        manifests = _push_to(Repository(registry.client(), "team/app"))
    with _theirs(distribution, shared, root, tmp_path) as peer:
        _assert_served(peer, manifests)


def test_we_serve_what_it_wrote(written: Store, root: str, distribution: Path, tmp_path: Path) -> None:
    with _theirs(distribution, written, root, tmp_path) as peer:
        manifests = _push_to(Repository(peer, "team/app"))
    with _ours(written, root, tmp_path) as registry:
        _assert_served(registry.client(), manifests)


def test_each_goes_on_with_what_the_other_left(written: Store, distribution: Path, tmp_path: Path) -> None:
    """Tags move, blobs are mounted, and each sees the other's deletions."""
    root = f"/{tmp_path.name}"
    with _theirs(distribution, written, root, tmp_path) as peer:
        _push_to(Repository(peer, "team/app"))
    with _ours(written, root, tmp_path) as registry:
        ours = Repository(registry.client(), "team/app")
        moved = ours.push_image("latest", layers=[b"third layer"])
        query = {"mount": digest_of(LAYERS[1]), "from": ours.name}
        assert ours.client.post(f"{ours.sibling('mounted').path}/blobs/uploads/", params=query).status_code == 201
        assert ours.client.delete("/v2/team/app/manifests/docker").status_code == 202
        assert ours.client.delete(f"/v2/team/app/manifests/{digest_of(image(b'{}', LAYERS))}").status_code == 202
    with _theirs(distribution, written, root, tmp_path) as peer:
        theirs = Repository(peer, "team/app")
        assert theirs.tags() == ["index", "latest"]
        assert _get(theirs, "latest") == moved
        assert theirs.get_manifest("docker").status_code == 404
        assert _get(theirs, digest_of(DOCKER_IMAGE)) == DOCKER_IMAGE
        assert theirs.sibling("mounted").get_blob(digest_of(LAYERS[1])).content == LAYERS[1]
        assert peer.delete(f"/v2/team/app/manifests/{digest_of(moved)}").status_code == 202
        assert peer.delete(f"/v2/team/app/blobs/{digest_of(LAYERS[0])}").status_code == 202
        unfinished = theirs.start_upload()
        peer.patch(unfinished, content=b"12345")
    with _ours(written, root, tmp_path) as registry:
        ours = Repository(registry.client(), "team/app")
        assert ours.tags() == ["index"]
        assert ours.get_manifest(digest_of(moved)).status_code == 404
        assert ours.get_blob(digest_of(LAYERS[0])).status_code == 404
        # What it left unfinished is of a form of its own; the client begins anew.
        upload = httpx.URL(unfinished).path
        assert ours.client.get(upload).status_code == 404
        assert ours.push_image("new", layers=[b"12345"])


def test_the_keys_are_its_own(stores: Callable[[str], Store], tmp_path: Path) -> None:
    made = stores("s3")
    root = f"/{tmp_path.name}/"
    with _ours(made, root, tmp_path) as registry:
        manifest = Repository(registry.client(), "team/app").push_image("v1", layers=[b"layer"])
    below = made.files(root)
    keys = {str(path.relative_to(below)) for path in below.rglob("*") if path.is_file()}
    slash = digest_of(manifest).replace(":", "/")
    team = "repositories/team/app"
    assert keys == {
        *(f"blobs/sha256/{digest_of(one)[7:9]}/{digest_of(one)[7:]}/data" for one in (b"{}", b"layer", manifest)),
        *(f"{team}/_layers/sha256/{digest_of(one)[7:]}/link" for one in (b"{}", b"layer")),
        f"{team}/_manifests/revisions/{slash}/link",
        f"{team}/_manifests/tags/v1/current/link",
        f"{team}/_manifests/tags/v1/index/{slash}/link",
    }
    assert json.dumps(sorted(keys)).count("_uploads") == 0


class TestKeysOfDistribution2:
    """On Azure they began with a slash, which the third version's do not; the rest of them is the same."""

    @pytest.fixture
    def azure(self, stores: Callable[[str], Store]) -> Store:
        return stores("azure")

    @pytest.fixture
    def old(self, azure: Store, distribution: Path, tmp_path: Path) -> dict[str, bytes]:
        """What distribution has written, under the names that its second version gave."""
        with _theirs(distribution, azure, f"/{tmp_path.name}", tmp_path) as peer:
            manifests = _push_to(Repository(peer, "team/app"))
        for key in _keys(azure, f"{tmp_path.name}/"):
            source = f"{azure.settings['serviceurl']}/registry/{key}"
            azure_request(azure, "PUT", f"/registry//{key}", headers={"x-ms-copy-source": source})
            azure_request(azure, "DELETE", f"/registry/{key}")
        return manifests

    def test_are_served_and_gone_on_with(self, azure: Store, old: dict[str, bytes], tmp_path: Path) -> None:
        before = set(_keys(azure, f"/{tmp_path.name}/"))
        with _ours(azure, f"/{tmp_path.name}", tmp_path, {"trimlegacyrootprefix": False}) as registry:
            _assert_served(registry.client(), old)
            ours = Repository(registry.client(), "team/app")
            assert ours.client.get("/v2/_catalog").json()["repositories"] == ["team/app"]
            moved = ours.push_image("latest", layers=[b"third layer", b"\0" * (20 << 20)])
            assert ours.client.delete("/v2/team/app/manifests/docker").status_code == 202
        with _ours(azure, f"/{tmp_path.name}", tmp_path / "again", {"trimlegacyrootprefix": False}) as registry:
            again = Repository(registry.client(), "team/app")
            assert again.tags() == ["index", "latest"]
            assert _get(again, "latest") == moved
            assert again.get_blob(digest_of(b"\0" * (20 << 20))).content == b"\0" * (20 << 20)
        assert _keys(azure, f"{tmp_path.name}/") == []
        after = set(_keys(azure, f"/{tmp_path.name}/"))
        assert {key for key in before - after if "/blobs/" in key} == set()
        assert any(digest_of(moved)[7:] in key for key in after - before)

    def test_are_not_hidden(self, azure: Store, old: dict[str, bytes], tmp_path: Path) -> None:
        started = _start(azure, f"/{tmp_path.name}", tmp_path, {})
        assert "storage.azure.trimlegacyrootprefix: false serves them" in started

    def test_do_not_hide_others(self, azure: Store, tmp_path: Path) -> None:
        with _ours(azure, f"/{tmp_path.name}", tmp_path) as registry:
            Repository(registry.client(), "team/app").push_image("v1")
        started = _start(azure, f"/{tmp_path.name}", tmp_path, {"trimlegacyrootprefix": False})
        assert "remove storage.azure.trimlegacyrootprefix: false, which hides them" in started


def _start(made: Store, root: str, folder: Path, keys: Mapping[str, Any]) -> str:
    """What a server says that does not start."""
    config = folder / "refused.yml"
    config.write_text(json.dumps({"version": 0.1, "storage": made.storage(root, keys=keys), "http": {"addr": ":0"}}))
    command = [sys.executable, "-m", "registry_server", "serve", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return done.stdout + done.stderr


def _keys(azure: Store, prefix: str) -> list[str]:
    query = {"restype": "container", "comp": "list", "prefix": prefix}
    page = ElementTree.fromstring(azure_request(azure, "GET", "/registry", query).content)  # noqa: S314, the tests' own
    assert not page.findtext("NextMarker")
    return [blob.findtext("Name", "") for blob in page.iterfind("Blobs/Blob")]
