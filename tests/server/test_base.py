"""What holds for every request: the version check, methods, unknown paths, error bodies, request ids and headers."""

import http.client
import json
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository, error_codes
from tests.server.live import LiveRegistry


def test_the_version_check_answers(client: httpx.Client) -> None:
    response = client.get("/v2/")
    assert response.status_code == 200
    assert response.json() == {}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/", "/v1/_ping", "/v2/a", "/v2/a/b/c", "/v2/a/manifests/", "/v2/a/tags", "/v3/"])
def test_nothing_is_at_other_paths(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert error_codes(response) == ["NOT_FOUND"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v2/", "GET, HEAD"),
        ("POST", "/v2/", "GET, HEAD"),
        ("PUT", "/v2/_catalog", "GET, HEAD"),
        ("POST", "/v2/a/tags/list", "GET, HEAD"),
        ("PATCH", "/v2/a/manifests/latest", "GET, HEAD, PUT, DELETE"),
        ("PUT", f"/v2/a/blobs/sha256:{'0' * 64}", "GET, HEAD, DELETE"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("POST", f"/v2/a/blobs/uploads/{'0' * 8}", "GET, HEAD, PATCH, PUT, DELETE"),
        ("BREW", "/v2/", "GET, HEAD"),
    ],
)
def test_a_method_a_resource_lacks_is_refused(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert error_codes(response) == ["UNSUPPORTED"]


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-a", "a-", "a..b", "a___b", "a/", "a" * 256, "a b", "ä"])
def test_a_name_outside_the_grammar_is_refused(client: httpx.Client, name: str) -> None:
    response = client.get(f"/v2/{name}/tags/list")
    assert response.status_code == 400
    assert error_codes(response) == ["NAME_INVALID"]


@pytest.mark.parametrize("name", ["a", "a.b", "a_b", "a__b", "a---b", "0", "blobs/uploads", "tags/list", "a" * 255])
def test_every_name_of_the_grammar_is_a_repository(client: httpx.Client, name: str) -> None:
    """Names may hold the words that paths are made of."""
    repository = Repository(client, name)
    manifest = repository.push_image("v1")
    assert repository.get_manifest("v1").content == manifest
    assert repository.tags() == ["v1"]


@pytest.mark.parametrize("reference", ["-v1", ".v1", "v" * 129, "v 1", "sha256:abc", f"md5:{'0' * 32}"])
def test_a_reference_outside_the_grammar_is_refused(repository: Repository, reference: str) -> None:
    response = repository.get_manifest(reference)
    assert response.status_code in (400, 404)
    assert repository.put_manifest(b"{}", reference).status_code == 400


def test_an_unknown_repository_has_nothing(repository: Repository) -> None:
    path, digest = repository.path, f"sha256:{'0' * 64}"
    client = repository.client
    assert error_codes(client.get(f"{path}/tags/list")) == ["NAME_UNKNOWN"]
    assert error_codes(client.get(f"{path}/manifests/latest")) == ["MANIFEST_UNKNOWN"]
    assert error_codes(client.get(f"{path}/manifests/{digest}")) == ["MANIFEST_UNKNOWN"]
    assert error_codes(client.get(f"{path}/blobs/{digest}")) == ["BLOB_UNKNOWN"]
    assert error_codes(client.delete(f"{path}/blobs/{digest}")) == ["BLOB_UNKNOWN"]
    assert error_codes(client.delete(f"{path}/manifests/{digest}")) == ["MANIFEST_UNKNOWN"]
    assert error_codes(client.patch(f"{path}/blobs/uploads/unknown")) == ["BLOB_UPLOAD_UNKNOWN"]


def test_a_head_is_a_get_without_its_body(registry: LiveRegistry, repository: Repository) -> None:
    manifest = repository.push_image("v1")
    blob = repository.push_blob(b"content")
    for path in (
        "/v2/",
        "/v2/_catalog?n=1",
        f"{repository.path}/tags/list",
        f"{repository.path}/manifests/v1",
        f"{repository.path}/blobs/{blob}",
        f"{repository.path}/referrers/{blob}",
        f"{repository.path}/manifests/unknown",
        "/nothing",
    ):
        get = repository.client.get(path)
        # On the same connection, so that a body sent after all would break the request that follows.
        connection = http.client.HTTPConnection(registry.host, registry.port)
        for _ in range(2):
            connection.request("HEAD", path)
            head = connection.getresponse()
            assert (head.status, head.read()) == (get.status_code, b""), path
            assert head.headers["content-length"] == str(len(get.content)), path
            assert head.headers["content-type"] == get.headers["content-type"], path
        connection.close()
    assert repository.client.head(f"{repository.path}/manifests/v1").headers["content-length"] == str(len(manifest))


def test_a_request_keeps_its_id(client: httpx.Client) -> None:
    assert client.get("/v2/", headers={"x-request-id": "from-afar"}).headers["x-request-id"] == "from-afar"


@pytest.mark.parametrize("sent", ["", "with blank", "x" * 129])
def test_a_request_without_a_sane_id_gets_one_of_its_own(client: httpx.Client, sent: str) -> None:
    ids = [client.get("/v2/", headers={"x-request-id": sent}).headers["x-request-id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert sent not in ids


def test_configured_headers_are_on_every_response(serve: Serve) -> None:
    headers = {"X-Content-Type-Options": ["nosniff"], "X-Many": ["one", "two"]}
    client = serve({"http": {"headers": headers}}).client()
    for path in ("/v2/", "/v2/a/tags/list", "/nothing", "/healthz"):
        response = client.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers.get_list("x-many") == ["one", "two"]


def test_behind_a_prefix_everything_is_below_it(serve: Serve) -> None:
    registry = serve({"http": {"prefix": "/registry/"}})
    client = registry.client()
    assert client.get("/registry/v2/").status_code == 200
    assert client.get("/v2/").status_code == 404
    assert client.get("/healthz").status_code == 200
    start = client.post("/registry/v2/app/blobs/uploads/")
    assert start.headers["location"].startswith("/registry/v2/app/blobs/uploads/")
    client.base_url = httpx.URL(f"{registry.url}/registry")
    Repository(client, "app").push_manifest(b'{"schemaVersion":2,"manifests":[]}', "v1", _INDEX)
    Repository(client, "app").push_manifest(b'{"schemaVersion":2,"manifests":[]}', "v2", _INDEX)
    page = client.get("/v2/app/tags/list", params={"n": 1})
    assert page.headers["link"].startswith("</registry/v2/app/tags/list?")


def test_locations_begin_with_the_external_url(serve: Serve) -> None:
    client = serve({"http": {"host": "https://registry.example.com"}}).client()
    location = client.post("/v2/app/blobs/uploads/").headers["location"]
    assert location.startswith("https://registry.example.com/v2/app/blobs/uploads/")


def test_relative_urls_win_over_the_external_one(serve: Serve) -> None:
    client = serve({"http": {"host": "https://registry.example.com", "relativeurls": True}}).client()
    assert client.post("/v2/app/blobs/uploads/").headers["location"].startswith("/v2/app/blobs/uploads/")


def test_a_read_only_registry_serves_and_takes_nothing(serve: Serve, tmp_path: Path) -> None:
    data = {"filesystem": {"rootdirectory": str(tmp_path / "data")}}
    writer = serve({"storage": data})
    pushed = Repository(writer.client(), "app")
    manifest = pushed.push_image("v1", layers=[b"layer"])
    upload = pushed.start_upload()
    writer.stop()
    reader = serve({"storage": {**data, "maintenance": {"readonly": {"enabled": True}}}})
    repository = Repository(reader.client(), "app")
    assert repository.get_manifest("v1").content == manifest
    client = repository.client
    for response in (
        client.post("/v2/app/blobs/uploads/"),
        client.patch(upload, content=b"more"),
        client.put(upload, params={"digest": f"sha256:{'0' * 64}"}),
        client.delete(upload),
        repository.put_manifest(manifest, "v2"),
        client.delete("/v2/app/manifests/v1"),
    ):
        assert response.status_code == 405
        assert error_codes(response) == ["UNSUPPORTED"]
    assert repository.tags() == ["v1"]


def test_a_long_error_detail_is_valid_json(client: httpx.Client) -> None:
    response = client.get(f"/v2/{'A' * 5000}/tags/list")
    assert response.status_code == 400
    assert json.loads(response.content)["errors"][0]["code"] == "NAME_INVALID"
    assert len(response.content) < 1000


_INDEX = "application/vnd.oci.image.index.v1+json"
