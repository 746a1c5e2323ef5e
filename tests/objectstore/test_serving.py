"""A registry on an S3 server of its own, which is sent away, killed beside, and shared."""

import hashlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.processes import run
from tests.fixtures.tools import Need
from tests.objectstore.stores import SECRET, Store, store
from tests.server.content import OCI_INDEX, Repository, digest_of, image, index, unique
from tests.server.live import PROGRAM, LiveRegistry, serving, until
from tests.server.test_memory import Content, _await_rest, _peak, _resident

SERVED_WITHIN = 45
"""Seconds until a server notices that a store is back, or away; generous, as the machine may be busy."""
LIMIT = 250_000_000
LAYER_ASKED = os.environ.get("REGATTA_LAYER_GIB", "")
LAYER = int(LAYER_ASKED or "2")
"""Gibibytes of a large layer: as many as are asked for, on every store; by default fewer."""

Serve = Callable[..., LiveRegistry]


@pytest.fixture
def own(need: Need, tmp_path: Path) -> Iterator[Store]:
    """A store that the test may stop."""
    with store("s3", need, tmp_path / "store") as running:
        yield running


@pytest.fixture
def s3(stores: Callable[[str], Store]) -> Store:
    """The store that tests share."""
    return stores("s3")


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Serve]:
    """`on(store, storage…, …)` serves what is on a store below the test's own root."""
    with ExitStack() as running:
        numbers = itertools.count()

        def start(made: Store, settings: dict[str, Any] | None = None, *, root: str = "", **more: Any) -> LiveRegistry:
            storage = made.storage(root or f"/{tmp_path.name}", **(settings or {}).pop("storage", {}))
            merged = {"health": {"storagedriver": {"interval": "500ms", "threshold": 2}}, **(settings or {})}
            folder = tmp_path / f"registry-{next(numbers)}"
            return running.enter_context(serving(folder, {**merged, "storage": storage}, **more))

        yield start


class TestRedirects:
    def test_content_comes_from_the_store_and_everything_else_from_us(self, s3: Store, on: Serve) -> None:
        registry = on(s3)
        repository = Repository(registry.client(), "app")
        content = unique() * 1000
        digest = repository.push_blob(content)
        response = repository.get_blob(digest)
        assert response.status_code == 307
        assert response.headers["docker-content-digest"] == digest
        assert response.headers["cache-control"] == "no-store"
        url = response.headers["location"]
        assert url.startswith(s3.settings["regionendpoint"])
        assert SECRET not in url
        assert httpx.get(url).content == content
        assert httpx.get(url, headers={"range": "bytes=5-9"}).content == content[5:10]
        head = repository.client.head(f"/v2/app/blobs/{digest}")
        assert head.status_code == 200
        assert head.headers["content-length"] == str(len(content))
        assert repository.get_blob(digest_of(b"unknown")).status_code == 404
        manifest = repository.push_image("v1", layers=[content])
        assert repository.get_manifest("v1").content == manifest

    def test_another_address_can_be_given_to_clients(self, s3: Store, on: Serve) -> None:
        elsewhere = s3.settings["regionendpoint"].replace("127.0.0.1", "127.0.0.2")
        settings = {"storage": {"s3": {**s3.settings, "rootdirectory": "/else", "redirectendpoint": elsewhere}}}
        repository = Repository(on(s3, settings).client(), "app")
        response = repository.get_blob(repository.push_blob(unique()))
        assert response.headers["location"].startswith(f"{elsewhere}/registry/else/docker/registry/v2/blobs/")

    def test_switched_off_content_comes_through_us(self, s3: Store, on: Serve) -> None:
        repository = Repository(on(s3, {"storage": {"redirect": {"disable": True}}}).client(), "app")
        content = unique() * 200_000
        digest = repository.push_blob(content)
        assert repository.get_blob(digest).content == content
        response = repository.get_blob(digest, range="bytes=100-299")
        assert (response.status_code, response.content) == (206, content[100:300])
        assert response.headers["content-range"] == f"bytes 100-299/{len(content)}"
        assert repository.client.head(f"/v2/app/blobs/{digest}").headers["content-length"] == str(len(content))


class TestTheStoreIsAway:
    def test_requests_fail_soon_and_work_again_when_it_is_back(self, own: Store, on: Serve) -> None:
        registry = on(own)
        client = registry.client()
        repository = Repository(client, "app")
        manifest = repository.push_image("v1")
        location = repository.start_upload()
        client.patch(location, content=b"12345")
        own.stop()
        answers = [
            repository.get_manifest("v1"),
            repository.get_blob(digest_of(b"{}")),
            client.get("/v2/app/tags/list"),
            client.get("/v2/_catalog"),
            client.post("/v2/app/blobs/uploads/"),
            client.patch(location, content=b"6789"),
            repository.put_manifest(manifest, "v2"),
            client.delete("/v2/app/manifests/v1"),
        ]
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert "127.0.0.1" not in answer.text
        assert client.get("/v2/").status_code == 200
        assert client.get("/healthz").status_code == 200
        until(lambda: client.get("/readyz").status_code == 503, "it is not ready", within=SERVED_WITHIN)
        own.start()
        until(lambda: client.get("/readyz").status_code == 200, "it is ready again", within=SERVED_WITHIN)
        assert repository.get_manifest("v1").content == manifest
        response = client.put(location, params={"digest": digest_of(b"123456789")}, content=b"6789")
        assert response.status_code == 201, response.text

    def test_many_requests_do_not_wait_for_each_other(self, own: Store, on: Serve) -> None:
        """Once the store counts as away, no request waits for it."""
        registry = on(own)
        client = registry.client()
        own.stop()
        for _ in range(100):
            assert client.get("/v2/app/tags/list").status_code == 503
        waited = [entry for entry in registry.entries(path="/v2/app/tags/list") if entry["duration_ms"] > 200]
        assert len(waited) < 50

    def test_content_that_breaks_off_is_not_taken_for_whole(self, own: Store, on: Serve) -> None:
        registry = on(own, {"storage": {"redirect": {"disable": True}}})
        content = Content(64 << 20)
        digest = content.digest()
        client = registry.client()
        location = Repository(client, "app").start_upload()
        assert client.put(location, params={"digest": digest}, content=iter(content)).status_code == 201
        with registry.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = len(connection.recv(1000))
            own.stop()
            connection.settimeout(240)
            while piece := connection.recv(1 << 20):
                received += len(piece)
        assert received < content.size
        until(lambda: "broke off after" in registry.messages(), "the log tells it")

    def test_a_server_starts_without_it_and_serves_when_it_comes(self, own: Store, on: Serve) -> None:
        own.stop()
        registry = on(own, start=False)
        registry.start(ready=False)
        until(lambda: _answers(registry), "the server answers", within=SERVED_WITHIN)
        until(lambda: registry.debug("/readyz").status_code == 503, "it is not ready", within=SERVED_WITHIN)
        own.start()
        until(lambda: registry.debug("/readyz").status_code == 200, "it is ready", within=SERVED_WITHIN)
        Repository(registry.client(), "app").push_image("v1")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"secretkey": "wrong"}, "storage.s3: S3 bucket registry refused: "),
            ({"bucket": "missing"}, "storage.s3: there is no S3 bucket missing"),
        ],
    )
    def test_one_that_refuses_is_a_fault_of_the_configuration(
        self, s3: Store, tmp_path: Path, change: dict[str, str], said: str
    ) -> None:
        config = tmp_path / "config.yml"
        storage = {"s3": {**s3.settings, **change}}
        config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": "127.0.0.1:0"}}))
        with pytest.raises(Exception, match="exited with 2") as raised:
            run(PROGRAM, "serve", config, "--workers", "1")
        assert said in str(raised.value)
        assert SECRET not in str(raised.value)


class TestReplicas:
    def test_two_servers_take_turns_with_one_upload(self, s3: Store, on: Serve) -> None:
        one, other = on(s3, root="/replicas"), on(s3, root="/replicas")
        clients = [one.client(), other.client()]
        chunks = [hashlib.shake_128(bytes([number])).digest(700_000) for number in range(6)]
        location = Repository(clients[0], "app").start_upload()
        start = 0
        for number, chunk in enumerate(chunks):
            span = {"content-range": f"{start}-{start + len(chunk) - 1}"}
            response = clients[number % 2].patch(location, content=chunk, headers=span)
            start += len(chunk)
            assert (response.status_code, response.headers["range"]) == (202, f"0-{start - 1}")
            assert clients[1 - number % 2].get(location).headers["range"] == f"0-{start - 1}"
        digest = digest_of(b"".join(chunks))
        assert clients[1].put(location, params={"digest": digest}).status_code == 201
        assert clients[0].get(location).status_code == 404
        blob = Repository(clients[0], "app").get_blob(digest)
        assert httpx.get(blob.headers["location"]).content == b"".join(chunks)

    def test_what_one_changes_the_other_shows_at_once(self, s3: Store, on: Serve) -> None:
        one, other = (Repository(on(s3, root="/shown").client(), "app") for _ in range(2))
        for number in range(5):
            manifest = one.push_image("latest")
            assert other.get_manifest("latest").content == manifest
            other.push_manifest(manifest, f"v{number}")
            assert one.tags() == ["latest", *(f"v{n}" for n in range(number + 1))]
            artifact = image(b"{}", [b""], subject={"mediaType": OCI_INDEX, "digest": digest_of(manifest), "size": 1})
            other.push_blob(b"")
            other.push_manifest(artifact)
            assert [one_["digest"] for one_ in one.referrers(digest_of(manifest))] == [digest_of(artifact)]
        assert other.client.delete("/v2/app/manifests/latest").status_code == 202
        assert one.get_manifest("latest").status_code == 404

    def test_a_token_of_one_is_good_for_the_other(self, s3: Store, on: Serve) -> None:
        one = on(s3, root="/tokens", users={"ci": "secret"})
        other = on(s3, {"auth": {"htpasswd": {"realm": "Tests", "path": str(one.htpasswd)}}}, root="/tokens")
        token = one.client("ci", "secret").get("/auth/token").json()["token"]
        response = other.client().get("/v2/_catalog", headers={"authorization": f"Bearer {token}"})
        assert response.status_code == 200

    def test_killed_in_mid_upload_the_other_goes_on(self, s3: Store, on: Serve) -> None:
        one, other = on(s3, root="/killed"), on(s3, root="/killed")
        chunks = [hashlib.shake_128(bytes([number])).digest(3 << 20) for number in range(6)]
        location = Repository(one.client(), "app").start_upload()
        assert one.client().patch(location, content=chunks[0]).status_code == 202
        with one.connect() as connection:
            length = sum(map(len, chunks[1:]))
            connection.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
            connection.sendall(b"".join(chunks[1:5]))
            one.kill()
        client = other.client()
        assert client.get(location).headers["range"] == f"0-{len(chunks[0]) - 1}"
        assert client.patch(location, content=b"".join(chunks[1:])).status_code == 202
        digest = digest_of(b"".join(chunks))
        assert client.put(location, params={"digest": digest}).status_code == 201
        one.crashes_expected = True
        one.start()
        blob = Repository(one.client(), "app").get_blob(digest)
        assert digest_of(httpx.get(blob.headers["location"]).content) == digest


class TestMemory:
    @pytest.mark.parametrize(("kind", "requests"), [("s3", 1), ("s3", 4), ("gcs", 1), ("azure", 1)])
    @pytest.mark.timeout(900 + 300 * LAYER)
    def test_a_large_layer_goes_in_and_out(
        self, kind: str, requests: int, need: Need, on: Serve, tmp_path: Path
    ) -> None:
        """As one segment, which the store copies, and as several, which go through the server once more."""
        size = LAYER << 30 if (kind == "s3" and requests == 1) or LAYER_ASKED else 1 << 30
        content = Content(size)
        digest = content.digest()
        with store(kind, need, tmp_path / "store", large=True) as own:
            registry = on(own, {"storage": {"redirect": {"disable": True}}}, environ=own.environ)
            client = registry.client()
            client.timeout = 280 * LAYER
            location = Repository(client, "app").start_upload()
            pieces = iter(content)
            for _ in range(requests):
                part = itertools.islice(pieces, (size >> 20) // requests)
                assert client.patch(location, content=part).status_code == 202
            assert client.put(location, params={"digest": digest}).status_code == 201
            hasher = hashlib.sha256()
            with client.stream("GET", f"/v2/app/blobs/{digest}") as response:
                for piece in response.iter_raw():
                    hasher.update(piece)
            assert f"sha256:{hasher.hexdigest()}" == digest
            print(f"{kind}: {size >> 30} GiB, at most {_peak(registry) >> 20} MiB of memory")
            assert _peak(registry) < LIMIT
            registry.stop()

    def test_slow_readers_cost_no_more_than_their_connections(self, s3: Store, on: Serve) -> None:
        registry = on(s3, {"storage": {"redirect": {"disable": True}}})
        content = Content(64 << 20)
        digest = content.digest()
        client = registry.client()
        location = Repository(client, "app").start_upload()
        assert client.put(location, params={"digest": digest}, content=iter(content)).status_code == 201
        before = _peak(registry)
        with ExitStack() as readers:
            connections = [readers.enter_context(registry.connect()) for _ in range(30)]
            for connection in connections:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                connection.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            _await_rest(lambda: _resident(registry))
            assert _peak(registry) - before < 100_000_000
        assert client.get("/v2/").status_code == 200


def test_an_index_of_many_manifests_is_pushed_and_listed(s3: Store, on: Serve) -> None:
    repository = Repository(on(s3).client(), "app")
    manifests = [repository.push_image(f"v{number:03}", layers=[]) for number in range(3)]
    repository.push_manifest(index(manifests), "all", OCI_INDEX)
    assert repository.tags() == ["all", "v000", "v001", "v002"]
    assert repository.client.get("/v2/_catalog").json() == {"repositories": ["app"]}


def _answers(registry: LiveRegistry) -> bool:
    try:
        return registry.debug("/healthz").status_code == 200
    except httpx.TransportError:
        return False
