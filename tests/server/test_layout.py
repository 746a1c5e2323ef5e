"""distribution's storage layout, both ways: what we write it serves, and what it writes we serve."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.fixtures.processes import free_port, server
from tests.server.conftest import Serve
from tests.server.content import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Repository,
    descriptor,
    digest_of,
    image,
    index,
)
from tests.server.live import LiveRegistry

LAYERS = [b"first layer", b"second layer" * 100_000]
DOCKER_IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(b"{}", DOCKER_CONFIG),
        "layers": [descriptor(layer, DOCKER_LAYER) for layer in LAYERS],
    }
).encode()


class TestFiles:
    def test_an_image_lies_where_distribution_puts_it_and_nowhere_else(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "team/app")
        layer = b"layer"
        manifest = repository.push_image("v1", layers=[layer])
        contents = {digest_of(content): content for content in (b"{}", layer, manifest)}
        expected = {f"blobs/{_split(digest)}/data": content for digest, content in contents.items()}
        team = "repositories/team/app"
        for blob in (b"{}", layer):
            expected[f"{team}/_layers/{_slash(digest_of(blob))}/link"] = digest_of(blob).encode()
        link = digest_of(manifest).encode()
        expected[f"{team}/_manifests/revisions/{_slash(digest_of(manifest))}/link"] = link
        expected[f"{team}/_manifests/tags/v1/current/link"] = link
        expected[f"{team}/_manifests/tags/v1/index/{_slash(digest_of(manifest))}/link"] = link
        assert _files(registry) == expected

    def test_a_tag_keeps_its_past(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "app")
        manifests = [repository.push_image("latest", layers=[bytes([number])]) for number in range(3)]
        tag = registry.root / "repositories/app/_manifests/tags/latest"
        assert (tag / "current/link").read_text() == digest_of(manifests[-1])
        past = {path.parent.name for path in tag.glob("index/sha256/*/link")}
        assert past == {digest_of(manifest)[7:] for manifest in manifests}

    def test_sha512_links_lead_to_the_canonical_content(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "app")
        blob = b"content"
        repository.push_blob(blob, "sha512")
        manifest = index()
        repository.push_manifest(manifest, digest_of(manifest, "sha512"), OCI_INDEX)
        files = _files(registry)
        app = "repositories/app"
        assert files[f"{app}/_layers/{_slash(digest_of(blob, 'sha512'))}/link"] == digest_of(blob).encode()
        assert files[f"{app}/_layers/{_slash(digest_of(blob))}/link"] == digest_of(blob).encode()
        revision = f"{app}/_manifests/revisions/{_slash(digest_of(manifest, 'sha512'))}/link"
        assert files[revision] == digest_of(manifest).encode()
        assert {path for path in files if path.startswith("blobs/")} == {
            f"blobs/{_split(digest_of(content))}/data" for content in (blob, manifest)
        }

    def test_an_upload_in_progress_is_a_folder_with_its_start(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "app")
        location = repository.start_upload()
        repository.client.patch(location, content=b"12345")
        upload = f"repositories/app/_uploads/{location.rpartition('/')[2]}"
        files = _files(registry)
        assert set(files) == {f"{upload}/data", f"{upload}/startedat"}
        assert files[f"{upload}/data"] == b"12345"
        datetime.fromisoformat(files[f"{upload}/startedat"].decode())

    def test_deletions_remove_what_distribution_removes(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "app")
        gone, kept = repository.push_image("gone", layers=[b"1"]), repository.push_image("kept", layers=[b"2"])
        repository.push_manifest(kept, "other")
        for path in (f"manifests/{digest_of(gone)}", "manifests/other", f"blobs/{digest_of(b'1')}"):
            assert repository.client.delete(f"/v2/app/{path}").status_code == 202
        files = set(_files(registry))
        app = "repositories/app"
        assert {path for path in files if path.startswith(app)} == {
            f"{app}/_layers/{_slash(digest_of(b'{}'))}/link",
            f"{app}/_layers/{_slash(digest_of(b'2'))}/link",
            f"{app}/_manifests/revisions/{_slash(digest_of(kept))}/link",
            f"{app}/_manifests/tags/kept/current/link",
            f"{app}/_manifests/tags/kept/index/{_slash(digest_of(kept))}/link",
        }
        # Content stays for garbage collection, as another repository may have it.
        assert f"blobs/{_split(digest_of(gone))}/data" in files


class TestDistribution:
    """The real one, on the same folder."""

    def test_it_serves_what_we_wrote(self, serve: Serve, distribution: Path) -> None:
        registry = serve()
        manifests = _push_everything(registry)
        registry.stop()
        with _peer(distribution, registry.data, registry.folder) as peer:
            _assert_served(peer, manifests)

    def test_we_serve_what_it_wrote(self, serve: Serve, distribution: Path, tmp_path: Path) -> None:
        registry = serve(start=False)
        with _peer(distribution, registry.data, tmp_path) as peer:
            manifests = _push_to(Repository(peer, "team/app"))
        registry.start()
        _assert_served(registry.client(), manifests)

    def test_we_go_on_with_what_it_left(self, serve: Serve, distribution: Path, tmp_path: Path) -> None:
        """Both write in turn: tags move, blobs are mounted, and each sees the other's deletions."""
        registry = serve(start=False)
        with _peer(distribution, registry.data, tmp_path) as peer:
            _push_to(Repository(peer, "team/app"))
        registry.start()
        ours = Repository(registry.client(), "team/app")
        moved = ours.push_image("latest", layers=[b"third layer"])
        mounted = ours.sibling("mounted")
        query = {"mount": digest_of(LAYERS[1]), "from": ours.name}
        assert ours.client.post(f"{mounted.path}/blobs/uploads/", params=query).status_code == 201
        assert ours.client.delete("/v2/team/app/manifests/docker").status_code == 202
        assert ours.client.delete(f"/v2/team/app/manifests/{digest_of(image(b'{}', LAYERS))}").status_code == 202
        registry.stop()
        with _peer(distribution, registry.data, tmp_path) as peer:
            theirs = Repository(peer, "team/app")
            assert theirs.tags() == ["index", "latest"]
            assert _get(theirs, "latest") == moved
            assert theirs.get_manifest("docker").status_code == 404
            assert _get(theirs, digest_of(DOCKER_IMAGE)) == DOCKER_IMAGE
            assert theirs.get_manifest(digest_of(image(b"{}", LAYERS))).status_code == 404
            assert theirs.sibling("mounted").get_blob(digest_of(LAYERS[1])).content == LAYERS[1]
            assert peer.delete(f"/v2/team/app/manifests/{digest_of(moved)}").status_code == 202
            assert peer.delete(f"/v2/team/app/blobs/{digest_of(LAYERS[0])}").status_code == 202
        registry.start()
        assert ours.tags() == ["index"]
        assert ours.get_manifest(digest_of(moved)).status_code == 404
        assert ours.get_blob(digest_of(LAYERS[0])).status_code == 404

    def test_uploads_it_left_unfinished_can_be_finished_here(
        self, serve: Serve, distribution: Path, tmp_path: Path
    ) -> None:
        registry = serve(start=False)
        with _peer(distribution, registry.data, tmp_path) as peer:
            location = Repository(peer, "app").start_upload()
            response = peer.patch(location, content=b"12345")
            upload_id = re.search(r"/uploads/([0-9a-f-]{36})", response.headers["location"])
            assert upload_id is not None
        registry.start()
        location = f"/v2/app/blobs/uploads/{upload_id[1]}"
        client = registry.client()
        assert client.get(location).headers["range"] == "0-4"
        response = client.put(location, params={"digest": digest_of(b"123456789")}, content=b"6789")
        assert response.status_code == 201
        assert Repository(client, "app").get_blob(digest_of(b"123456789")).content == b"123456789"
        assert list(registry.root.glob("repositories/app/_uploads/*")) == []

    def test_foreign_files_in_the_layout_do_not_matter(self, serve: Serve) -> None:
        """What backups, file managers and other versions leave."""
        registry = serve()
        repository = Repository(registry.client(), "app")
        manifest = repository.push_image("v1", layers=[])
        for junk in (
            "blobs/sha256/README",
            "blobs/md5/00/00000000000000000000000000000000/data",
            "repositories/lost+found/x",
            "repositories/.snapshot/app/_manifests/revisions/x",
            "repositories/app/.DS_Store",
            "repositories/app/_manifests/.nfs0001",
            "repositories/app/_manifests/tags/.hidden/current/link",
            "repositories/app/_manifests/tags/empty/index/x",
            "repositories/app/_manifests/tags/file",
            "repositories/app/_manifests/revisions/sha256/short/link",
            "repositories/app/_manifests/revisions/md5/0/link",
            "repositories/UPPER/_manifests/x",
            "repositories/app/_uploads/no-uuid/data",
        ):
            path = registry.root / junk
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("junk")
        assert repository.tags() == ["v1"]
        assert repository.get_manifest("v1").content == manifest
        assert repository.referrers(digest_of(manifest)) == []
        assert registry.client().get("/v2/_catalog").json() == {"repositories": ["app"]}
        assert repository.get_manifest("empty").status_code == 404


@contextmanager
def _peer(distribution: Path, data: Path, folder: Path) -> Iterator[httpx.Client]:
    """distribution on our folder, as long as the block."""
    port = free_port()
    config = folder / "distribution.yml"
    storage = {
        "filesystem": {"rootdirectory": str(data)},
        "delete": {"enabled": True},
        "maintenance": {"uploadpurging": {"enabled": False}},
    }
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    with server(distribution, "serve", config, log=folder / "distribution.log") as running:
        running.await_port("127.0.0.1", port)
        accept = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"accept": accept}, timeout=60) as client:
            yield client


def _push_everything(registry: LiveRegistry) -> dict[str, bytes]:
    return _push_to(Repository(registry.client(), "team/app"))


def _push_to(repository: Repository) -> dict[str, bytes]:
    """Pushes an OCI image, a Docker image and an index of the first; returns them by tag and by digest."""
    oci = repository.push_image("latest", layers=LAYERS)
    repository.push_manifest(DOCKER_IMAGE, "docker", DOCKER_MANIFEST)
    both = index([oci])
    repository.push_manifest(both, "index", OCI_INDEX)
    tagged = {"latest": oci, "docker": DOCKER_IMAGE, "index": both}
    return tagged | {digest_of(manifest): manifest for manifest in tagged.values()}


def _assert_served(client: httpx.Client, manifests: dict[str, bytes]) -> None:
    repository = Repository(client, "team/app")
    assert client.get("/v2/_catalog").json()["repositories"] == ["team/app"]
    assert repository.tags() == ["docker", "index", "latest"]
    for reference, manifest in manifests.items():
        response = repository.get_manifest(reference)
        assert response.content == manifest
        assert response.headers["docker-content-digest"] == digest_of(manifest)
        assert response.headers["content-type"] == json.loads(manifest)["mediaType"]
    for blob in (b"{}", *LAYERS):
        assert repository.get_blob(digest_of(blob)).content == blob


def _get(repository: Repository, reference: str) -> bytes:
    response = repository.get_manifest(reference)
    assert response.status_code == 200
    return response.content


def _files(registry: LiveRegistry) -> dict[str, bytes]:
    """All files below the layout's root; in the registry's folder there is nothing else but signs of life."""
    signs = registry.data / ".regatta/servers"
    files = {path: path.read_bytes() for path in registry.data.rglob("*") if path.is_file() and path.parent != signs}
    return {str(path.relative_to(registry.root)): content for path, content in files.items()}


def _slash(digest: str) -> str:
    return digest.replace(":", "/")


def _split(digest: str) -> str:
    algorithm, _, name = digest.partition(":")
    return f"{algorithm}/{name[:2]}/{name}"


@pytest.mark.parametrize("reference", ["../../../../etc/passwd", "..%2f..%2fetc", "%2e%2e", "/etc/passwd"])
def test_no_reference_leads_out_of_the_layout(registry: LiveRegistry, reference: str) -> None:
    for path in ("app/manifests", "app/blobs", "app/referrers", "app/blobs/uploads"):
        with registry.connect() as connection:  # no client that tidies the path up
            connection.sendall(f"GET /v2/{path}/{reference} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        assert re.match(rb"HTTP/1.1 40[045]", answer), answer
        assert b"root:" not in answer
