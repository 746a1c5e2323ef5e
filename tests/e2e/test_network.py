"""Who may connect: to a registry everyone, to its metrics and to the operator nobody, unless it is said otherwise.

Where the network does not heed NetworkPolicies, their rules are held against the live pods all the same.
"""

from collections.abc import Callable

import pytest

from tests.e2e.harness.namespaces import Json, Namespace, pod_of
from tests.e2e.harness.policies import assert_admitted
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry

OPERATOR_METRICS = 8080
REGISTRY, REGISTRY_METRICS = 5000, 5001


@pytest.fixture(scope="module")
def clients(new_namespace: Callable[[str], Namespace], busybox_image: str) -> dict[str, Json]:
    """Pods by their app: `prometheus` and `stranger`, in a namespace of their own."""
    namespace = new_namespace("clients")
    apps = ("prometheus", "stranger")
    pods = [pod_of(app, busybox_image, "sleep", "100000", labels={"app": app}) for app in apps]
    namespace.apply(*pods)
    for app in apps:
        namespace.wait(f"pod/{app}", "condition=Ready")
    return {app: namespace.get("pod", app) for app in apps}


@pytest.fixture
def prometheus(clients: dict[str, Json]) -> Json:
    """The peer of a NetworkPolicy that stands for the pod of that name."""
    return {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": clients["prometheus"]["metadata"]["namespace"]}
        },
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }


@pytest.fixture(scope="module")
def team(operator: Release, product: Product, new_namespace: Callable[[str], Namespace]) -> LiveRegistry:
    return LiveRegistry.make(new_namespace("guarded"), product)


class TestRegistry:
    def test_everyone_reaches_it_and_nobody_its_metrics(self, team: LiveRegistry, clients: dict[str, Json]) -> None:
        """But the kubelet, which has found it ready by them."""
        (pod,) = team.pods()
        for client in clients.values():
            assert_admitted(team.namespace, pod, REGISTRY, client)
            assert_admitted(team.namespace, pod, REGISTRY_METRICS, client, admitted=False)

    def test_those_who_are_named_reach_what_they_are_named_for(
        self, team: LiveRegistry, product: Product, clients: dict[str, Json], prometheus: Json
    ) -> None:
        """While it goes on running as it was."""
        (pod,) = team.pods()
        named = {"metricsFrom": [prometheus], "clientsFrom": [{"podSelector": {}}]}
        team.apply({**product.spec, "networkPolicy": named})
        team.namespace.wait("networkpolicy/team", "jsonpath={.spec.ingress[1].ports[0].port}=5001")
        assert_admitted(team.namespace, pod, REGISTRY_METRICS, clients["prometheus"])
        assert_admitted(team.namespace, pod, REGISTRY_METRICS, clients["stranger"], admitted=False)
        for client in clients.values():
            assert_admitted(team.namespace, pod, REGISTRY, client, admitted=False)
        team.await_ready()
        assert [each["metadata"]["uid"] for each in team.pods()] == [pod["metadata"]["uid"]]

    def test_without_a_policy_everyone_reaches_everything(
        self, team: LiveRegistry, product: Product, clients: dict[str, Json]
    ) -> None:
        (pod,) = team.pods()
        team.apply({**product.spec, "networkPolicy": {"enabled": False}})
        team.namespace.wait("networkpolicy/team", "delete")
        assert_admitted(team.namespace, pod, REGISTRY_METRICS, clients["stranger"])


class TestOperator:
    def test_nobody_reaches_it(self, operator: Release, clients: dict[str, Json]) -> None:
        (pod,) = operator.pods()
        for client in clients.values():
            assert_admitted(operator.namespace, pod, OPERATOR_METRICS, client, admitted=False)

    def test_prometheus_reaches_its_metrics_where_the_values_name_it(
        self, operator: Release, product: Product, clients: dict[str, Json], prometheus: Json
    ) -> None:
        operator.upgrade(product, {"networkPolicy": {"metricsFrom": [prometheus]}})
        (pod,) = operator.pods()
        assert_admitted(operator.namespace, pod, OPERATOR_METRICS, clients["prometheus"])
        assert_admitted(operator.namespace, pod, OPERATOR_METRICS, clients["stranger"], admitted=False)
        assert_admitted(operator.namespace, pod, OPERATOR_METRICS + 1, clients["prometheus"], admitted=False)
