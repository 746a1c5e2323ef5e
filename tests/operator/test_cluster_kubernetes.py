"""`KubernetesCluster` against a real API server: what it reads, writes, and says when it is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry_operator.api.kinds import (
    CHILDREN,
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    REGISTRY,
    REGISTRY_BACKUP,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
)
from registry_operator.api.names import child_labels
from registry_operator.cluster.kubernetes.api import Api, CredentialsError
from registry_operator.cluster.kubernetes.cluster import EVENT, KubernetesCluster
from registry_operator.cluster.kubernetes.foreign import watch_foreign
from registry_operator.cluster.protocol import Key, Rejected, Unavailable
from tests.operator.kube import Json, Kube, Wire, opaque

Scenario = Callable[[KubernetesCluster], Awaitable[None]]


@asynccontextmanager
async def connected(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesCluster]:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    api = await Api.connect(user_agent="regatta-test/1")
    try:
        yield KubernetesCluster(api)
    finally:
        await api.close()


@pytest.fixture
def with_cluster(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Runs a scenario on the API server as its administrator."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with connected(kube.api.kubeconfig, monkeypatch) as cluster:
                await scenario(cluster)

        asyncio.run(main())

    return run


def config_map(namespace: str, name: str = "one", **data: str) -> Json:
    metadata = {"name": name, "namespace": namespace, "labels": child_labels("team")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class TestApply:
    def test_creates_changes_and_removes_what_is_no_longer_asked_for(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            await cluster.apply(config_map(namespace, a="1", b="2"))
            live = await cluster.apply(config_map(namespace, a="3"))
            assert live["data"] == {"a": "3"}
            stored = kube.get(CONFIG_MAP, namespace, "one")
            assert stored is not None
            assert stored["data"] == {"a": "3"}
            assert {entry["manager"] for entry in stored["metadata"]["managedFields"]} == {"regatta"}

        with_cluster(scenario)

    def test_takes_fields_back_from_others_and_leaves_theirs_alone(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            await cluster.apply(config_map(namespace, a="1"))
            kube.merge(CONFIG_MAP, namespace, "one", {"data": {"a": "drifted", "theirs": "x"}})
            live = await cluster.apply(config_map(namespace, a="1"))
            assert live["data"] == {"a": "1", "theirs": "x"}

        with_cluster(scenario)

    def test_nothing_new_is_no_change(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            first = await cluster.apply(config_map(namespace, a="1"))
            second = await cluster.apply(config_map(namespace, a="1"))
            assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]

        with_cluster(scenario)

    def test_a_read_after_a_write_sees_the_write(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        """Though no watch feeds the cache here."""

        async def scenario(cluster: KubernetesCluster) -> None:
            for number in range(5):
                await cluster.apply(config_map(namespace, a=str(number)))
                live = await cluster.get(Key(CONFIG_MAP, namespace, "one"))
                assert live is not None
                assert live["data"] == {"a": str(number)}
                labels = {"regatta.dev/registry": "team"}
                assert await cluster.list(CONFIG_MAP, namespace=namespace, labels=labels) == [live]

        with_cluster(scenario)

    def test_an_invalid_object_is_rejected_in_the_servers_words(
        self, with_cluster: Callable[[Scenario], None], namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            service = config_map(namespace) | {"kind": "Service", "spec": {"ports": [{"port": 70000}]}}
            del service["data"]
            with pytest.raises(
                Rejected, match=r'Service "one" is invalid: .*spec\.ports\[0\]\.port: Invalid value: 70000'
            ):
                await cluster.apply(service)

        with_cluster(scenario)

    def test_an_immutable_field_is_rejected(self, with_cluster: Callable[[Scenario], None], namespace: str) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            secret = config_map(namespace) | {"kind": "Secret", "immutable": True, "stringData": {"a": "1"}}
            del secret["data"]
            await cluster.apply(secret)
            with pytest.raises(Rejected, match="immutable"):
                await cluster.apply(secret | {"stringData": {"a": "2"}})

        with_cluster(scenario)

    def test_a_missing_namespace_is_rejected(self, with_cluster: Callable[[Scenario], None]) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            with pytest.raises(Rejected, match='namespaces "nowhere" not found'):
                await cluster.apply(config_map("nowhere"))

        with_cluster(scenario)

    def test_a_missing_permission_is_rejected_and_named(
        self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube.create(SERVICE_ACCOUNT, namespace, "nobody")
        token = kube.api.kubectl("create", "token", "nobody", f"--namespace={namespace}").strip()

        async def main() -> None:
            async with connected(kube.api.kubeconfig_for(token), monkeypatch) as cluster:
                with pytest.raises(Rejected, match='cannot patch resource "configmaps"'):
                    await cluster.apply(config_map(namespace))
                with pytest.raises(Rejected, match='cannot get resource "secrets"'):
                    await cluster.get(Key(SECRET, namespace, "one"))

        asyncio.run(main())

    def test_a_wrong_token_is_a_matter_of_time(
        self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pod's token is rotated under way; the file may already hold the next one."""

        async def main() -> None:
            async with connected(kube.api.kubeconfig_for("wrong"), monkeypatch) as cluster:
                with pytest.raises(Unavailable, match="401"):
                    await cluster.apply(config_map(namespace))

        asyncio.run(main())

    def test_a_server_that_is_away_is_unavailable(
        self, kube: Kube, wire: Wire, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with connected(wire.kubeconfig(kube.api, tmp_path), monkeypatch) as cluster:
                await cluster.apply(config_map(namespace, a="1"))
                await asyncio.to_thread(wire.cut)
                with pytest.raises(Unavailable, match=f"127.0.0.1:{wire.port}"):
                    await cluster.apply(config_map(namespace, a="2"))
                await asyncio.to_thread(wire.mend)
                live = await cluster.apply(config_map(namespace, a="2"))
                assert live["data"] == {"a": "2"}

        asyncio.run(main())


class TestDelete:
    def test_only_the_object_that_was_meant(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            live = await cluster.apply(config_map(namespace))
            key = Key(CONFIG_MAP, namespace, "one")
            await cluster.delete(key, uid="00000000-0000-0000-0000-000000000000")
            assert kube.get(CONFIG_MAP, namespace, "one") is not None
            assert await cluster.get(key) is not None
            await cluster.delete(key, uid=live["metadata"]["uid"])
            assert kube.get(CONFIG_MAP, namespace, "one") is None
            assert await cluster.get(key) is None
            await cluster.delete(key, uid=live["metadata"]["uid"])

        with_cluster(scenario)

    def test_what_a_finalizer_holds_shows_that_it_is_being_deleted(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            manifest = config_map(namespace)
            manifest["metadata"]["finalizers"] = ["example.com/hold"]
            live = await cluster.apply(manifest)
            key = Key(CONFIG_MAP, namespace, "one")
            await cluster.delete(key, uid=live["metadata"]["uid"])
            held = await cluster.get(key)
            assert held is not None
            assert "deletionTimestamp" in held["metadata"]
            kube.merge(CONFIG_MAP, namespace, "one", {"metadata": {"finalizers": None}})

        with_cluster(scenario)


class TestGet:
    def test_somebody_elses_object_is_read_from_the_server_each_time(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            key = Key(SECRET, namespace, "theirs")
            assert await cluster.get(key) is None
            kube.create(SECRET, namespace, "theirs", **opaque(a="1"))
            assert (await cluster.get(key) or {})["data"] == {"a": "MQ=="}
            kube.merge(SECRET, namespace, "theirs", {"data": {"a": "Mg=="}})
            assert (await cluster.get(key) or {})["data"] == {"a": "Mg=="}

        with_cluster(scenario)


class TestStatus:
    def test_replaces_what_we_own_and_nothing_else(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            kube.create(REGISTRY, namespace, "team", spec={})
            key = Key(REGISTRY, namespace, "team")
            await cluster.patch_status(key, {"observedGeneration": 1, "address": "a:5000"})
            await cluster.patch_status(key, {"observedGeneration": 2})
            stored = kube.get(REGISTRY, namespace, "team")
            assert stored is not None
            assert stored["status"] == {"observedGeneration": 2}
            cached = await cluster.get(key)
            assert cached is not None
            assert cached["status"] == stored["status"]
            assert cached["spec"] == stored["spec"]

        with_cluster(scenario)

    def test_of_a_registry_that_is_gone_is_no_error(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            await cluster.patch_status(Key(REGISTRY, namespace, "gone"), {"observedGeneration": 1})
            assert kube.get(REGISTRY, namespace, "gone") is None

        with_cluster(scenario)


class TestEvents:
    def test_appear_where_people_look_for_them(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            registry = kube.create(REGISTRY, namespace, "team", spec={})
            await cluster.emit_event(registry, kind="Warning", reason="SecretMissing", message="ü" * 2000)
            shown = kube.api.kubectl("describe", "registry", "team", f"--namespace={namespace}")
            assert "SecretMissing" in shown
            (event,) = kube.all(EVENT, namespace)
            assert event["type"] == "Warning"
            assert event["reportingController"] == "regatta.dev/operator"

        with_cluster(scenario)

    def test_one_that_cannot_be_recorded_is_logged_and_no_error(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            registry = kube.create(REGISTRY, namespace, "team", spec={})
            registry["metadata"]["namespace"] = "nowhere"
            await cluster.emit_event(registry, kind="Normal", reason="Ready", message="all is well")

        with_cluster(scenario)
        assert "nowhere/team: an Event could not be recorded" in caplog.text
        assert "all is well" in caplog.text


class TestRelist:
    def test_fills_the_cache_with_all_registries_and_our_children_in_pages(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry_operator.cluster.kubernetes.api.PAGE", 3)

        async def scenario(cluster: KubernetesCluster) -> None:
            for number in range(10):
                kube.create(
                    CONFIG_MAP,
                    namespace,
                    f"ours-{number}",
                    metadata={"name": f"ours-{number}", "labels": child_labels("team")},
                )
            kube.create(CONFIG_MAP, namespace, "theirs")
            for kind in (REGISTRY, *CHILDREN):
                await cluster.relist(kind)
            ours = await cluster.list(CONFIG_MAP, namespace=namespace)
            assert [item["metadata"]["name"] for item in ours] == [f"ours-{number}" for number in range(10)]
            assert {(item["apiVersion"], item["kind"]) for item in ours} == {("v1", "ConfigMap")}

        with_cluster(scenario)

    def test_finds_what_was_deleted_unseen(
        self, with_cluster: Callable[[Scenario], None], kube: Kube, namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            await cluster.apply(config_map(namespace))
            await cluster.relist(CONFIG_MAP)
            kube.delete(CONFIG_MAP, namespace, "one")
            assert await cluster.get(Key(CONFIG_MAP, namespace, "one")) is not None
            missed = [item["metadata"]["name"] for item in await cluster.relist(CONFIG_MAP)]
            assert "one" in missed
            assert await cluster.get(Key(CONFIG_MAP, namespace, "one")) is None

        with_cluster(scenario)

    def test_of_some_namespaces_sees_no_others(
        self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = kube.api.namespace("elsewhere")
        for where in (namespace, elsewhere):
            kube.create(REGISTRY, where, "team", spec={})

        async def main() -> None:
            async with connected(kube.api.kubeconfig, monkeypatch) as all_of_it:
                cluster = KubernetesCluster(all_of_it.api, namespaces=(namespace,))
                await cluster.relist(REGISTRY)
                assert [item["metadata"]["namespace"] for item in await cluster.list(REGISTRY)] == [namespace]

        asyncio.run(main())


class TestForeignObjects:
    """What a reconcile read and does not own wakes it when it changes."""

    @staticmethod
    async def _woken(queue: asyncio.Queue[Key]) -> Key:
        return await asyncio.wait_for(queue.get(), 30)

    def test_appearing_changing_going_and_after_a_broken_watch(
        self, kube: Kube, wire: Wire, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry_operator.cluster.kubernetes.foreign.RETRY_SECONDS", 0.05)
        reader = Key(REGISTRY, namespace, "team")
        secret = Key(SECRET, namespace, "theirs")

        async def main() -> None:
            async with connected(wire.kubeconfig(kube.api, tmp_path), monkeypatch) as cluster:
                woken: asyncio.Queue[Key] = asyncio.Queue()

                async def reconcile() -> Any:
                    with cluster.reconciling(reader):
                        return await cluster.get(secret)

                async def read() -> Any:
                    while not woken.empty():
                        woken.get_nowait()
                    return await reconcile()

                assert await reconcile() is None
                watching = asyncio.create_task(
                    watch_foreign(
                        cluster.api,
                        SECRET,
                        None,
                        selector="app.kubernetes.io/managed-by!=regatta",
                        references=cluster.references,
                        wake=woken.put_nowait,
                    )
                )
                assert await self._woken(woken) == reader
                kube.create(SECRET, namespace, "unrelated", **opaque(a="0"))
                kube.create(SECRET, namespace, "theirs", **opaque(a="1"))
                assert await self._woken(woken) == reader
                assert (await read())["data"] == {"a": "MQ=="}
                kube.merge(SECRET, namespace, "theirs", {"data": {"a": "Mg=="}})
                assert await self._woken(woken) == reader
                assert (await read())["data"] == {"a": "Mg=="}
                await asyncio.to_thread(wire.cut)
                kube.delete(SECRET, namespace, "theirs")
                await asyncio.to_thread(wire.mend)
                assert await self._woken(woken) == reader
                assert await read() is None
                assert not watching.done()
                watching.cancel()

        asyncio.run(main())

    def test_a_reader_that_reads_no_more_is_not_woken(
        self, with_cluster: Callable[[Scenario], None], namespace: str
    ) -> None:
        async def scenario(cluster: KubernetesCluster) -> None:
            reader, secret = Key(REGISTRY, namespace, "team"), Key(SECRET, namespace, "theirs")
            with cluster.reconciling(reader):
                await cluster.get(secret)
            assert cluster.references.readers(secret) == {reader}
            with cluster.reconciling(reader):
                pass
            assert cluster.references.readers(secret) == frozenset()

        with_cluster(scenario)


class TestCredentials:
    def test_a_kubeconfig_that_is_missing_or_broken_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for content in (
            None,
            "",
            "]",
            "{}",
            json.dumps({"apiVersion": "v1", "current-context": "none", "contexts": []}),
        ):
            file = tmp_path / "kubeconfig"
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_text(content)
            monkeypatch.setenv("KUBECONFIG", str(file))
            with pytest.raises(CredentialsError, match=f"{file}.*set KUBECONFIG"):
                asyncio.run(Api.connect(user_agent="test"))


class TestPlacement:
    def test_a_pod_finds_its_files_and_names(self) -> None:
        cluster = KubernetesCluster.__new__(KubernetesCluster)
        cluster.api = SimpleNamespace(default_namespace="regatta-system")  # type: ignore[misc]
        registry = {"metadata": {"name": "team", "namespace": "images"}, "spec": {"service": {"port": 443}}}
        placement = cluster.placement(registry)
        assert placement.config_directory == "/etc/regatta"
        assert placement.hosts == ("team", "team.images", "team.images.svc", "team.images.svc.cluster.local")
        assert placement.address == "team.images.svc:443"
        assert placement.operator == "regatta-system"


def test_the_kinds_used_here_exist() -> None:
    """Guards the imports above against a kind that is renamed without its plural."""
    assert {kind.plural for kind in CHILDREN} == {
        kind.plural
        for kind in (
            CONFIG_MAP,
            DEPLOYMENT,
            NETWORK_POLICY,
            PERSISTENT_VOLUME_CLAIM,
            REGISTRY_BACKUP,
            SECRET,
            SERVICE,
            SERVICE_ACCOUNT,
        )
    }
