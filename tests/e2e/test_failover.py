"""Two operators, of which one acts: what becomes of Registries when that one, or the way to the API server, is lost."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import pytest

from registry_operator.api.kinds import CHILDREN, REGISTRY_BACKUP
from tests.e2e.cluster import Cluster
from tests.e2e.harness.loading import load
from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry

ACTS_WITHIN = 20
"""Seconds from a leader's end, of which nobody was told, to what the next one does: a promise."""
MINUTE = 60


@pytest.fixture(scope="module")
def pair(release: Release, product: Product) -> Release:
    """Two operators, both ready."""
    release.install(product, {"replicas": 2})
    return release


@pytest.fixture(scope="module")
def images(new_namespace: Callable[[str], Namespace]) -> Namespace:
    return new_namespace("failover")


@pytest.fixture(scope="module")
def team(pair: Release, product: Product, images: Namespace) -> LiveRegistry:
    """A Registry that nothing happens to."""
    return LiveRegistry.make(images, product)


def test_a_leader_that_is_killed_is_followed_by_the_next_which_writes_nothing_twice(
    cluster: Cluster, pair: Release, product: Product, team: LiveRegistry, images: Namespace
) -> None:
    """By `kill -9` in the middle of its work, and for good: nobody gives the Lease back."""
    during, after = LiveRegistry(images, "during"), LiveRegistry(images, "after")
    leader = _leader(pair)
    before, applied = _versions(team), _applied(cluster)
    during.apply(product.spec)
    images.wait("serviceaccount/during", "create")
    cluster.kill_container(pair.namespace.name, leader)
    pair.namespace.kubectl("delete", "pod", leader, "--grace-period=0", "--force")
    after.apply(product.spec)
    images.wait("serviceaccount/after", "create")
    assert _age(images.get("serviceaccount", "after")) - _age(after.resource) <= ACTS_WITHIN
    assert _leader(pair) != leader
    for registry in (during, after):
        registry.await_ready()
    made = Counter(_plural(child) for registry in (during, after) for child in _children(registry))
    written = _applied(cluster) - applied
    assert written.keys() == {kind.plural for kind in CHILDREN if kind != REGISTRY_BACKUP}
    # One write a child. (Where there are several API servers, each counts its own.)
    assert written - made == Counter()
    assert _versions(team) == before


def test_a_minute_without_the_api_server_is_made_up_for(
    cluster: Cluster, pair: Release, product: Product, team: LiveRegistry, images: Namespace
) -> None:
    """It restarts, and the operators do not see it again, nor what people do, for a minute. Clients notice nothing."""
    changed, gone, new = (LiveRegistry(images, name) for name in ("changed", "gone", "new"))
    for registry in (changed, gone):
        LiveRegistry.make(images, product, registry.name)
    servers = _containers(team)
    with load(team, product) as report:
        with cluster.cut_off(pair.namespace.name, *_names(pair.pods())):
            broken = time.monotonic()
            cluster.restart("kube-apiserver", signal.SIGKILL)
            cluster.await_api()
            changed.apply({**product.spec, "service": {"port": 443}})
            images.kubectl("delete", "configmap", "changed-ca")
            gone.delete()
            new.apply(product.spec)
            time.sleep(max(broken + MINUTE - time.monotonic(), 0))
        new.await_ready()
        images.wait("service/changed", "jsonpath={.spec.ports[0].port}=443")
        images.wait("configmap/changed-ca", "create")
        changed.await_ready()
    assert report.failures == []
    assert report.lost == 0
    assert report.resent == 0
    assert _containers(team) == servers
    for kind in ("deployments", "services", "secrets", "configmaps"):
        images.kubectl("wait", kind, f"--selector={gone.selector}", "--for=delete", "--timeout=60s")
    with changed.client() as client:
        client.push_random("team/data:1")


def _leader(release: Release) -> str:
    """The name of the pod that holds the Lease."""
    return release.leader().partition("_")[0]


def _names(pods: list[Json]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def _containers(registry: LiveRegistry) -> list[str]:
    return sorted(status["containerID"] for pod in registry.pods() for status in pod["status"]["containerStatuses"])


def _children(registry: LiveRegistry) -> list[Json]:
    """What the operator has made for it."""
    kinds = ",".join(kind.plural for kind in CHILDREN)
    found: list[Json] = registry.namespace.get(kinds, f"--selector={registry.selector}", "--show-managed-fields")[
        "items"
    ]
    return found


def _plural(child: Json) -> str:
    return next(kind.plural for kind in CHILDREN if kind.name == child["kind"])


def _versions(registry: LiveRegistry) -> dict[str, list[Json]]:
    """Who wrote what and when, but for statuses, which the cluster's controllers go on writing."""
    return {
        f"{child['kind']}/{child['metadata']['name']}": [
            entry for entry in child["metadata"]["managedFields"] if "subresource" not in entry
        ]
        for child in _children(registry)
    }


def _applied(cluster: Cluster) -> Counter[str]:
    """Server-side applies of children's kinds so far: only operators patch these, and the API server counts it."""
    counts: Counter[str] = Counter()
    for line in cluster.kubectl("get", "--raw=/metrics").splitlines():
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if labels["verb"] in ("APPLY", "PATCH") and labels["code"].startswith("2"):
                counts[labels["resource"]] += int(float(line.rpartition(" ")[2]))
    return Counter({kind.plural: counts[kind.plural] for kind in CHILDREN})


def _age(manifest: Json) -> float:
    """When it was made, by the API server's clock."""
    return datetime.fromisoformat(manifest["metadata"]["creationTimestamp"]).timestamp()
