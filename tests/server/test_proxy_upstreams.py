"""Several upstreams: by a prefix of the repository's name, and by the name that containerd asks for."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry_server.config.proxy import Remote, Timeouts
from registry_server.metrics import Metrics
from registry_server.proxy.upstream import Sessions, Upstream
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("second")) as second:
        yield second


@pytest.fixture(scope="module")
def cache(
    registry: LiveRegistry, second: LiveRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveRegistry]:
    """`first/**` comes from the shared registry, `second/**` from another; what is elsewhere is its own."""
    upstreams = [
        {"prefix": "first", "remoteurl": registry.url},
        {"prefix": "second", "remoteurl": second.url, "ns": ["quay.example"]},
    ]
    with serving(tmp_path_factory.mktemp("cache"), {"proxy": {"upstreams": upstreams}}) as cache:
        yield cache


@pytest.fixture(scope="module")
def client(cache: LiveRegistry) -> httpx.Client:
    return cache.client()


def test_a_prefix_leads_to_its_upstream(registry: LiveRegistry, second: LiveRegistry, client: httpx.Client) -> None:
    for prefix, upstream in (("first", registry), ("second", second)):
        manifest = Repository(upstream.client(), "team/app").push_image("1")
        cached = Repository(client, f"{prefix}/team/app")
        assert cached.get_manifest("1").content == manifest
        assert cached.get_blob(_config_of(cached)).content == b"{}"
        assert cached.tags() == ["1"]


def test_elsewhere_is_the_registry_s_own(client: httpx.Client) -> None:
    own = Repository(client, "own/app")
    manifest = own.push_image("1")
    assert own.get_manifest("1").content == manifest
    assert own.get_manifest("2").status_code == 404
    assert own.tags() == ["1"]
    refused = Repository(client, "first/app").client.post("/v2/first/app/blobs/uploads/")
    assert refused.status_code == 405


def test_containerd_s_name_leads_to_its_upstream(
    registry: LiveRegistry, second: LiveRegistry, client: httpx.Client
) -> None:
    for name, prefix, upstream in (("quay.example", "second", second), (registry.address, "first", registry)):
        manifest = Repository(upstream.client(), "containerd/app").push_image("1")
        response = client.get("/v2/containerd/app/manifests/1", params={"ns": name})
        assert response.content == manifest
        assert response.headers["oci-namespace"] == name
        assert Repository(client, f"{prefix}/containerd/app").tags() == ["1"], "it is the same repository"


def test_a_name_that_no_upstream_has_finds_nothing(client: httpx.Client) -> None:
    """Rather than another registry's image of the same name."""
    Repository(client, "own/app").push_image("1")
    response = client.get("/v2/own/app/manifests/1", params={"ns": "ghcr.example"})
    assert (response.status_code, response.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
    assert "oci-namespace" not in response.headers


def test_policies_judge_the_name_here(registry: LiveRegistry, tmp_path: Path) -> None:
    policies = [{"subjects": ["anonymous"], "repositories": ["first/public/**"], "role": "reader"}]
    proxy = {"upstreams": [{"prefix": "first", "remoteurl": registry.url}]}
    for name in ("public/app", "private/app"):
        Repository(registry.client(), name).push_image("1")
    with serving(tmp_path / "cache", {"proxy": proxy, "access": {"policies": policies}}) as cache:
        client = cache.client()
        for path, status in (
            ("first/public/app/manifests/1", 200),
            ("first/private/app/manifests/1", 403),
            (f"public/app/manifests/1?ns={registry.address}", 200),
            (f"private/app/manifests/1?ns={registry.address}", 403),
        ):
            assert client.get(f"/v2/{path}").status_code == status, path


@pytest.mark.parametrize("url", ["https://docker.io", "https://index.docker.io", "https://registry-1.docker.io"])
def test_official_images_of_docker_hub_are_below_library(url: str, tmp_path: Path) -> None:
    hub = Upstream(Remote(remoteurl=url), Timeouts(), Sessions(), Metrics(tmp_path))
    assert hub.name_of("alpine") == "library/alpine"
    assert hub.name_of("grafana/loki") == "grafana/loki"
    other = Upstream(Remote(remoteurl="https://quay.io"), Timeouts(), Sessions(), Metrics(tmp_path))
    assert other.name_of("alpine") == "alpine"


def _config_of(repository: Repository) -> str:
    digest: str = repository.get_manifest("1").json()["config"]["digest"]
    return digest
