"""The operator with the permissions of `manifests/install/rbac.yaml`, on an API server that enforces them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_operator.api.kinds import REGISTRY, SECRET, SERVICE
from tests.operator.kube import Kube, Operator, eventually, operator

RBAC = Path(__file__).parents[2] / "manifests" / "install" / "rbac.yaml"
SYSTEM = "regatta-system"


@pytest.fixture
def restricted(kube: Kube, tmp_path: Path) -> Iterator[Operator]:
    """The operator as its ServiceAccount."""
    kube.api.kubectl("create", "namespace", SYSTEM)
    kube.api.kubectl("apply", "-f", str(RBAC))
    token = kube.api.kubectl("create", "token", "regatta-operator", f"--namespace={SYSTEM}").strip()
    arguments = (f"--leader-election-namespace={SYSTEM}", "--log-format=text")
    with operator(kube.api.kubeconfig_for(token), tmp_path, *arguments) as process:
        process.await_running()
        yield process


def test_it_needs_no_more(restricted: Operator, kube: Kube, namespace: str) -> None:
    """Every kind of request that it makes: create, change, delete, status, Event, a foreign Secret, a claim's class."""
    spec = {"storage": {"filesystem": {"storageClassName": "missing"}}}
    kube.create(REGISTRY, namespace, "team", spec=spec)
    eventually(lambda: len(kube.children_of(namespace, "team")) == 9)
    kube.delete(SERVICE, namespace, "team")
    eventually(lambda: kube.get(SERVICE, namespace, "team"))
    kube.merge(REGISTRY, namespace, "team", {"spec": {"access": {"htpasswd": {"secretRef": {"name": "users"}}}}})
    eventually(lambda: kube.condition(namespace, "team", "Degraded").get("reason") == "UsersMissing")
    line = "ci:$2b$10$abcdefghijklmnopqrstuuKCPDuDmdCMGuzMS4yMAPpSLP.1NZqDu"
    kube.create(SECRET, namespace, "users", type="Opaque", stringData={"htpasswd": line})
    eventually(lambda: kube.condition(namespace, "team", "Degraded").get("reason") != "UsersMissing", within=20)
    events = kube.api.kubectl("describe", "registry", "team", f"--namespace={namespace}").partition("Events:")[2]
    assert "UsersMissing" in events
    restricted.await_idle()
    assert "forbidden" not in restricted.log.lower()
    assert restricted.metric("regatta_operator_api_requests_total", code="403") == 0
