"""The resync: what no watch has told is noticed all the same."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from registry_operator.api.kinds import CONFIG_MAP, REGISTRY
from registry_operator.api.names import child_labels
from registry_operator.cluster.kubernetes.api import Api
from registry_operator.cluster.kubernetes.cluster import KubernetesCluster
from registry_operator.cluster.protocol import Key
from registry_operator.runtime.resync import Resync
from tests.operator.kube import Json, Kube

LONG = "a" * 100
"""A name that does not fit into a label."""


def child(kube: Kube, namespace: str, registry: str, name: str = "child", owner: Json | None = None) -> Json:
    """A ConfigMap with our labels, owned or not."""
    references = [
        {"apiVersion": REGISTRY.api_version, "kind": "Registry", "name": registry, "uid": owner["metadata"]["uid"]}
        for owner in ([owner] if owner else [])
    ]
    metadata = {"name": name, "labels": child_labels(registry), "ownerReferences": references}
    return kube.create(CONFIG_MAP, namespace, name, metadata=metadata)


@pytest.fixture
def unwatched(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Resync, asyncio.Queue[Key]], Awaitable[None]]], None]:
    """Runs a scenario with a resync, and a queue of the keys it wakes, over a cache that no watch feeds."""
    monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig))
    monkeypatch.setattr("registry_operator.runtime.resync.SETTLE_SECONDS", 0.01)

    def run(scenario: Callable[[Resync, asyncio.Queue[Key]], Awaitable[None]]) -> None:
        async def main() -> None:
            api = await Api.connect(user_agent="test")
            woken: asyncio.Queue[Key] = asyncio.Queue()
            cluster = KubernetesCluster(api, namespaces=(namespace,))
            resync = Resync(cluster, wake=woken.put_nowait, interval=3600)
            try:
                await resync.first()
                async with asyncio.TaskGroup() as group:
                    running = group.create_task(resync.run())
                    await asyncio.wait_for(scenario(resync, woken), 30)
                    running.cancel()
            finally:
                await api.close()

        asyncio.run(main())

    return run


def drain(woken: asyncio.Queue[Key]) -> set[Key]:
    """What has been woken so far."""
    return {woken.get_nowait() for _ in range(woken.qsize())}


def test_a_deletion_that_no_watch_told_wakes_the_owner(unwatched, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    key = Key(REGISTRY, namespace, "team")
    owner = kube.create(REGISTRY, namespace, "team", spec={})
    child(kube, namespace, "team", owner=owner)

    async def scenario(resync: Resync, woken: asyncio.Queue[Key]) -> None:
        assert drain(woken) == {key}
        kube.delete(CONFIG_MAP, namespace, "child")
        resync.request()
        assert await woken.get() == key

    unwatched(scenario)


def test_nothing_missed_wakes_nobody(unwatched, kube: Kube, namespace: str) -> None:  # type: ignore[no-untyped-def]
    kube.create(REGISTRY, namespace, "team", spec={})

    async def scenario(resync: Resync, woken: asyncio.Queue[Key]) -> None:
        drain(woken)
        resync.request()
        await asyncio.sleep(0.5)
        assert drain(woken) == set()
        kube.create(REGISTRY, namespace, "other", spec={})
        resync.request()
        assert await woken.get() == Key(REGISTRY, namespace, "other")

    unwatched(scenario)


@pytest.mark.parametrize("name", ["team", LONG])
def test_a_child_without_owner_reference_is_known_by_its_label(
    unwatched, kube: Kube, namespace: str, name: str
) -> None:  # type: ignore[no-untyped-def]
    """As claims are, which outlive their Registry."""
    kube.create(REGISTRY, namespace, name, spec={})

    async def scenario(resync: Resync, woken: asyncio.Queue[Key]) -> None:
        drain(woken)
        child(kube, namespace, name)
        child(kube, namespace, "nobody", "orphan")
        resync.request()
        assert await woken.get() == Key(REGISTRY, namespace, name)
        assert woken.empty()

    unwatched(scenario)


def test_the_interval_alone_is_enough(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig))

    async def main() -> None:
        api = await Api.connect(user_agent="test")
        woken: asyncio.Queue[Key] = asyncio.Queue()
        resync = Resync(KubernetesCluster(api, namespaces=(namespace,)), wake=woken.put_nowait, interval=0.2)
        running = asyncio.create_task(resync.run())
        try:
            kube.create(REGISTRY, namespace, "team", spec={})
            assert await asyncio.wait_for(woken.get(), 30) == Key(REGISTRY, namespace, "team")
        finally:
            running.cancel()
            await api.close()

    asyncio.run(main())
