"""Settings of distribution's that change a little, each in a live server."""

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, index


class TestPages:
    def test_of_tags_have_as_many_as_allowed(self, serve: Serve) -> None:
        repository = Repository(serve({"tags": {"maxtags": 2}}).client(), "app")
        for tag in "abcde":
            repository.push_manifest(index(), tag, OCI_INDEX)
        assert self.pages(repository.client, "/v2/app/tags/list", "tags") == [["a", "b"], ["c", "d"], ["e"]]
        assert self.pages(repository.client, "/v2/app/tags/list?n=100", "tags") == [["a", "b"], ["c", "d"], ["e"]]

    def test_of_repositories_have_as_many_as_allowed(self, serve: Serve) -> None:
        client = serve({"catalog": {"maxentries": 2}}).client()
        for name in "abc":
            Repository(client, name).push_manifest(index(), "latest", OCI_INDEX)
        assert self.pages(client, "/v2/_catalog", "repositories") == [["a", "b"], ["c"]]

    def pages(self, client: httpx.Client, path: str, name: str) -> list[list[str]]:
        pages = []
        while path:
            response = client.get(path)
            pages.append(response.json()[name])
            path = response.links["next"]["url"] if "next" in response.links else ""
        return pages


@pytest.mark.parametrize(
    "settings", [{"h2c": {"enabled": True}}, {}, {"h2c": {"enabled": True}, "http2": {"disabled": True}}]
)
def test_http2_without_tls_is_spoken_where_it_is_enabled(serve: Serve, settings: dict[str, Any]) -> None:
    registry = serve({"http": settings})
    with httpx.Client(base_url=registry.url, http1=False, http2=True) as client:
        if settings == {"h2c": {"enabled": True}}:
            assert client.get("/v2/").http_version == "HTTP/2"
        else:
            with pytest.raises(httpx.TransportError):
                client.get("/v2/")
    assert registry.client().get("/v2/").http_version == "HTTP/1.1"


class TestLog:
    def test_logstash_has_names_of_its_own(self, serve: Serve) -> None:
        registry = serve({"log": {"formatter": "logstash", "fields": {"service": "registry"}}})
        registry.client().get("/v2/")
        registry.stop()
        lines = [json.loads(line) for line in registry.log.read_text().splitlines()]
        assert {(line["@version"], line["service"]) for line in lines} == {("1", "registry")}
        assert all("@timestamp" in line and "time" not in line for line in lines)
        assert any("listens on" in line.get("message", "") for line in lines)
        assert any(line.get("path") == "/v2/" for line in lines)

    def test_with_the_caller(self, serve: Serve) -> None:
        registry = serve({"log": {"reportcaller": True}})
        (entry,) = [entry for entry in registry.entries(func="_announce") if "listens on" in entry["msg"]]
        file, _, line = entry["file"].rpartition(":")
        assert file.endswith("/registry_server/serve/__init__.py")
        assert line.isdecimal()

    def test_of_requests_can_be_left_out(self, serve: Serve) -> None:
        registry = serve({"log": {"accesslog": {"disabled": True}}})
        registry.client().get("/v2/")
        registry.stop()
        assert registry.entries(path="/v2/") == []
