"""Who may connect to the operator: nobody but whom the chart's values name. Where the network does not heed
NetworkPolicies, the rules are held against the live pods all the same."""

from collections.abc import Callable

import pytest

from tests.e2e.harness.namespaces import Json, Namespace, pod_of
from tests.e2e.harness.policies import assert_admitted
from tests.e2e.harness.product import Product, Release

METRICS = 8080


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


def test_nobody_reaches_the_operator(release: Release, product: Product, clients: dict[str, Json]) -> None:
    release.install(product)
    (operator,) = release.pods()
    for client in clients.values():
        assert_admitted(release.namespace, operator, METRICS, client, admitted=False)
    release.uninstall()


def test_prometheus_reaches_its_metrics_where_the_values_name_it(
    release: Release, product: Product, clients: dict[str, Json]
) -> None:
    home = clients["prometheus"]["metadata"]["namespace"]
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": home}},
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }
    release.install(product, {"networkPolicy": {"metricsFrom": [peer]}})
    (operator,) = release.pods()
    assert_admitted(release.namespace, operator, METRICS, clients["prometheus"])
    assert_admitted(release.namespace, operator, METRICS, clients["stranger"], admitted=False)
    assert_admitted(release.namespace, operator, METRICS + 1, clients["prometheus"], admitted=False)
