"""A fleet: a hundred Registries made at once, an operator that starts again over them, and what that costs."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry_operator.api.kinds import REGISTRY, SERVICE
from tests.operator.kube import Kube, Operator, eventually, operator

pytestmark = pytest.mark.endurance

FLEET = 100
NAMESPACES = 5
CHILDREN_EACH = 11


@pytest.fixture(scope="module")
def namespaces(kube: Kube) -> list[str]:
    """Namespaces of the fleet."""
    return [kube.api.namespace("fleet") for _ in range(NAMESPACES)]


@pytest.fixture(scope="module")
def fleet(kube: Kube, namespaces: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator for the whole cluster, and a hundred Registries that were made at once while it ran."""
    # The operator looks after the whole cluster, and what other tests have left there would count as well.
    kube.api.kubectl("delete", "registries", "--all", "--all-namespaces")
    keys = [(namespaces[number % NAMESPACES], f"team-{number}") for number in range(FLEET)]
    with operator(
        kube.api.kubeconfig, tmp_path_factory.mktemp("fleet"), "--leader-election-namespace=default"
    ) as process:
        process.await_running()
        process.await_idle()
        empty, started = process.memory, time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: kube.create(REGISTRY, *key, spec={}), keys))
        created = time.monotonic()
        # Asked of the operator: to count objects that often would cost the API server more than they do.
        applied = lambda: process.metric("regatta_operator_api_requests_total", method="PATCH", code="201")  # noqa: E731
        eventually(lambda: applied() >= FLEET * CHILDREN_EACH, within=120)
        made = time.monotonic()
        process.await_idle()
        print(
            f"\n{FLEET} Registries: created in {created - started:.1f} s, all {FLEET * CHILDREN_EACH} children after "
            f"{made - started:.1f} s; memory {empty:.0f} MiB empty, {process.memory:.0f} MiB after"
        )
        yield process


def test_each_of_a_hundred_made_at_once_gets_its_own_children(
    fleet: Operator, kube: Kube, namespaces: list[str]
) -> None:
    for number in range(FLEET):
        namespace, name = namespaces[number % NAMESPACES], f"team-{number}"
        assert len(kube.children_of(namespace, name)) == CHILDREN_EACH
        assert kube.condition(namespace, name, "Degraded")["status"] == "False"
    assert fleet.metric("regatta_operator_reconciles_total", result="failed") == 0


def test_each_object_is_written_once(fleet: Operator) -> None:
    """One apply a child, one status a Registry; no write that another one of ours outdates."""
    applied = fleet.metric("regatta_operator_api_requests_total", method="PATCH", code="201")
    assert applied == FLEET * CHILDREN_EACH
    updated = fleet.metric("regatta_operator_api_requests_total", method="PATCH", code="200")
    assert updated <= FLEET * 1.1


def test_nothing_is_written_while_nothing_changes(fleet: Operator, kube: Kube) -> None:
    before, writes = kube.versions(), kube.writes()
    time.sleep(3)
    assert kube.versions() == before
    assert kube.writes() == writes


def test_a_restart_over_an_unchanged_fleet_writes_nothing(
    fleet: Operator, kube: Kube, namespaces: list[str], tmp_path: Path
) -> None:
    fleet.process.stop()
    before, writes = kube.versions(), kube.writes()
    started = time.monotonic()
    with operator(kube.api.kubeconfig, tmp_path, "--leader-election-namespace=default") as again:
        again.await_running()
        reconciled = lambda: again.metric("regatta_operator_reconciles_total")  # noqa: E731
        eventually(lambda: reconciled() >= FLEET and again.metric("regatta_operator_queue_depth") == 0)
        took = time.monotonic() - started
        again.await_idle()
        assert kube.versions() == before
        assert kube.writes() == writes
        assert again.metric("regatta_operator_api_requests_total", method="PATCH") == 0
        print(f"\nrestart over {FLEET} Registries: {took:.1f} s, 0 writes, {again.memory:.0f} MiB")
        # The proof that it was not asleep: it repairs at once.
        kube.delete(SERVICE, namespaces[0], "team-0")
        eventually(lambda: kube.get(SERVICE, namespaces[0], "team-0"))
