"""The reconcile over `KubernetesCluster`, without watches: what it sends, and that it leaves the shared cache alone."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from registry_operator.api.kinds import CHILDREN, REGISTRY, SERVICE
from registry_operator.cluster.kubernetes.api import Api
from registry_operator.cluster.kubernetes.cluster import KubernetesCluster
from registry_operator.cluster.protocol import Key
from registry_operator.reconcile.registry import reconcile_registry
from tests.operator.kube import Kube

Sent = list[tuple[str, str]]


@pytest.fixture
def engine(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[KubernetesCluster, Sent], Awaitable[None]]], None]:
    """Runs a scenario with a cluster and the list of the requests that it sends."""
    monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig))

    def run(scenario: Callable[[KubernetesCluster, Sent], Awaitable[None]]) -> None:
        async def main() -> None:
            api = await Api.connect(user_agent="test")
            sent: Sent = []
            request = api.request

            async def recorded(method: str, where: str, **rest: Any) -> dict[str, Any]:
                sent.append((method, where))
                return await request(method, where, **rest)

            monkeypatch.setattr(api, "request", recorded)
            cluster = KubernetesCluster(api, namespaces=(namespace,))
            try:
                await relist(cluster)
                await scenario(cluster, sent)
            finally:
                await api.close()

        asyncio.run(main())

    return run


async def relist(cluster: KubernetesCluster) -> None:
    for kind in (REGISTRY, *CHILDREN):
        await cluster.relist(kind)


async def reconcile(cluster: KubernetesCluster, namespace: str) -> None:
    await reconcile_registry(cluster, Key(REGISTRY, namespace, "team"), clock=lambda: datetime.now(UTC))


def test_the_first_pass_writes_each_child_once_and_the_second_sends_nothing(engine, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    kube.create(REGISTRY, namespace, "team", spec={})

    async def scenario(cluster: KubernetesCluster, sent: Sent) -> None:
        sent.clear()
        await reconcile(cluster, namespace)
        children = [where for method, where in sent if method == "PATCH" and not where.endswith("/status")]
        assert len(children) == len(set(children)) == len(kube.children(namespace)) == 11
        assert [where for method, where in sent if method == "PATCH" and where.endswith("/status")] != []
        sent.clear()
        await reconcile(cluster, namespace)
        assert sent == []

    engine(scenario)


def test_a_pass_over_what_another_process_has_made_sends_nothing(engine, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    """As after a restart: what a LIST gives and what an apply answered are the same to it."""
    kube.create(REGISTRY, namespace, "team", spec={})

    async def before(cluster: KubernetesCluster, sent: Sent) -> None:
        await reconcile(cluster, namespace)

    async def after(cluster: KubernetesCluster, sent: Sent) -> None:
        sent.clear()
        await reconcile(cluster, namespace)
        assert sent == []

    engine(before)
    engine(after)


def test_drift_is_one_write_to_the_child_that_drifted(engine, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    kube.create(REGISTRY, namespace, "team", spec={})

    async def scenario(cluster: KubernetesCluster, sent: Sent) -> None:
        await reconcile(cluster, namespace)
        kube.merge(SERVICE, namespace, "team", {"spec": {"selector": {"app.kubernetes.io/name": "other"}}})
        await relist(cluster)
        sent.clear()
        await reconcile(cluster, namespace)
        assert sent == [("PATCH", f"/api/v1/namespaces/{namespace}/services/team")]
        service = kube.get(SERVICE, namespace, "team")
        assert service is not None
        assert service["spec"]["selector"]["app.kubernetes.io/name"] == "registry"

    engine(scenario)


def test_the_cache_is_only_read(engine, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    """It hands out its own objects: a reconcile that changed one would deceive every later one."""
    kube.create(REGISTRY, namespace, "team", spec={})

    async def scenario(cluster: KubernetesCluster, sent: Sent) -> None:
        await reconcile(cluster, namespace)

        async def everything() -> list[Any]:
            return [await cluster.list(kind) for kind in (REGISTRY, *CHILDREN)]

        before = copy.deepcopy(await everything())
        await reconcile(cluster, namespace)
        assert await everything() == before

    engine(scenario)
