"""distribution on the same bucket: each serves what the other wrote, and goes on with it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fixtures.processes import free_port, server
from tests.objectstore.stores import Store, distribution_config
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
def _ours(shared: Store, root: str, folder: Path) -> Iterator[LiveRegistry]:
    storage = shared.storage(root, redirect={"disable": True})
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
