"""Logins with tokens of Kubernetes ServiceAccounts (`auth.kubernetes`), reviewed by a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.kubernetes import KubeAPI
from tests.server.conftest import Serve
from tests.server.live import LiveRegistry, serving, until

AUDIENCE = "registry.test"


class Cluster:
    """A namespace with a ServiceAccount for builds and that of the registry, which may have tokens reviewed."""

    def __init__(self, api: KubeAPI, folder: Path) -> None:
        self.api = api
        self.namespace = api.namespace("accounts")
        self.add("builder")
        self.add("registry")
        binding = f"{self.namespace}-registry"
        role = "--clusterrole=system:auth-delegator"
        api.kubectl("create", "clusterrolebinding", binding, role, f"--serviceaccount={self.namespace}:registry")
        self.file = folder / "token"
        self.file.write_text(self.token("registry", audience=None))

    def add(self, account: str) -> None:
        self.api.kubectl("create", "serviceaccount", account, f"--namespace={self.namespace}")

    def remove(self, account: str) -> None:
        self.api.kubectl("delete", "serviceaccount", account, f"--namespace={self.namespace}")

    def token(self, account: str = "builder", *, audience: str | None = AUDIENCE) -> str:
        wanted = [] if audience is None else [f"--audience={audience}"]
        return self.api.kubectl("create", "token", account, f"--namespace={self.namespace}", *wanted).strip()

    def settings(self, **changes: Any) -> dict[str, Any]:
        kubernetes = {"audience": AUDIENCE, "server": self.api.server, "ca": str(self.api.ca), "token": str(self.file)}
        policies = [
            {"subjects": [f"serviceaccount:{self.namespace}:builder"], "repositories": ["own/*"], "role": "writer"},
            {
                "subjects": [f"group:system:serviceaccounts:{self.namespace}"],
                "repositories": ["namespace/*"],
                "role": "reader",
            },
        ]
        return {"auth": {"kubernetes": {**kubernetes, **changes}}, "access": {"policies": policies}}


@pytest.fixture(scope="module")
def cluster(kube_api: KubeAPI, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(kube_api, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def registry(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("registry"), cluster.settings(), workers=2) as running:
        yield running


def by_bearer(registry: LiveRegistry, token: str) -> httpx.Client:
    client = registry.client()
    client.headers["authorization"] = f"Bearer {token}"
    return client


def by_password(registry: LiveRegistry, token: str) -> httpx.Client:
    return registry.client("serviceaccount", token)


def by_token_flow(registry: LiveRegistry, token: str) -> httpx.Client:
    return by_bearer(registry, by_password(registry, token).get("/auth/token").json()["token"])


@pytest.mark.parametrize("way", [by_bearer, by_password, by_token_flow])
def test_a_service_account_may_what_policies_say(registry: LiveRegistry, cluster: Cluster, way: Any) -> None:
    client = way(registry, cluster.token())
    assert client.get("/v2/").status_code == 200
    assert client.post("/v2/own/app/blobs/uploads/").status_code == 202
    assert client.get("/v2/namespace/app/tags/list").status_code == 404
    assert client.post("/v2/namespace/app/blobs/uploads/").status_code == 403
    assert client.get("/v2/other/app/tags/list").status_code == 403


def test_another_one_may_what_its_namespace_may(registry: LiveRegistry, cluster: Cluster) -> None:
    cluster.add("other")
    client = by_bearer(registry, cluster.token("other"))
    assert client.get("/v2/namespace/app/tags/list").status_code == 404
    assert client.get("/v2/own/app/tags/list").status_code == 403


def test_it_is_in_the_log_who_it_was(registry: LiveRegistry, cluster: Cluster) -> None:
    by_bearer(registry, cluster.token()).get("/v2/")
    until(lambda: registry.entries(user=f"serviceaccount:{cluster.namespace}:builder"), "the request is logged")


@pytest.mark.parametrize("audience", ["another", None])
def test_a_token_for_others_opens_nothing_here(registry: LiveRegistry, cluster: Cluster, audience: str | None) -> None:
    """Such as the one in every pod, which is for the API server."""
    token = cluster.token(audience=audience)
    for way in (by_bearer, by_password):
        assert way(registry, token).get("/v2/").status_code == 401


def test_a_token_that_was_changed_is_refused(registry: LiveRegistry, cluster: Cluster) -> None:
    cluster.add("changed")
    one, other = cluster.token().split("."), cluster.token("changed").split(".")
    assert by_bearer(registry, f"{one[0]}.{other[1]}.{one[2]}").get("/v2/").status_code == 401


@pytest.mark.endurance
def test_an_account_that_is_gone_is_out(registry: LiveRegistry, cluster: Cluster) -> None:
    cluster.add("leaving")
    known, unseen = cluster.token("leaving"), cluster.token("leaving")
    assert by_bearer(registry, known).get("/v2/").status_code == 200
    cluster.remove("leaving")
    assert by_bearer(registry, unseen).get("/v2/").status_code == 401

    def is_out() -> bool:
        headers = {"authorization": f"Bearer {known}"}
        return registry.fresh.get(f"{registry.url}/v2/", headers=headers).status_code == 401

    until(is_out, "what was reviewed a minute ago is reviewed again", within=150)


def test_a_review_holds_for_a_while(serve: Serve, cluster: Cluster) -> None:
    registry = serve(cluster.settings())
    token = cluster.token()
    for _ in range(20):
        assert by_bearer(registry, token).get("/v2/").status_code == 200
    cluster.file.rename(cluster.file.with_name("away"))
    try:
        assert by_bearer(registry, token).get("/v2/").status_code == 200
        assert by_bearer(registry, cluster.token()).get("/v2/").status_code == 503
    finally:
        cluster.file.with_name("away").rename(cluster.file)


def test_a_server_that_may_review_nothing_says_what_to_do(serve: Serve, cluster: Cluster, tmp_path: Path) -> None:
    cluster.add("powerless")
    own = tmp_path / "powerless"
    own.write_text(cluster.token("powerless", audience=None))
    registry = serve(cluster.settings(token=str(own)))
    response = by_bearer(registry, cluster.token()).get("/v2/")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert "bind the ClusterRole system:auth-delegator" in registry.messages()
    assert registry.metric("regatta_authentication_failures_total", reason="unavailable") == 1


def test_an_api_server_that_is_away_is_no_reason_to_hang(serve: Serve, cluster: Cluster) -> None:
    registry = serve(cluster.settings(server="https://127.0.0.1:1"))
    assert by_bearer(registry, cluster.token()).get("/v2/").status_code == 503
    assert registry.client().get("/v2/").status_code == 401


def test_outside_of_a_cluster_it_has_to_be_said_which_one(serve: Serve, cluster: Cluster) -> None:
    registry = serve(cluster.settings(server=None), start=False)
    registry.start(ready=False)
    assert registry.process.wait() == 2
    assert "auth.kubernetes: this is no pod of a cluster; set server, ca and token" in registry.log.read_text()
