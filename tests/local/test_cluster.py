"""`LocalCluster` as a reconcile sees it: objects that behave, Deployments that run."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from registry_operator.api.kinds import CONFIG_MAP, DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, REGISTRY, SECRET
from registry_operator.cluster.local import Event, LocalCluster, StateDirectory, StateInUse
from registry_operator.cluster.local.store import ObjectStore, key_of
from registry_operator.cluster.protocol import Cluster, Key, Manifest
from tests.fixtures.processes import free_port
from tests.local.running import await_true, session

NS = "default"
WEB = Key(DEPLOYMENT, NS, "web")
FAST = {"periodSeconds": 0.1, "failureThreshold": 2}


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


class World:
    """A cluster that runs, and a way to wait for what happens in it."""

    def __init__(self, state: StateDirectory) -> None:
        self.state = state
        self.events: list[Event] = []
        self.woken: list[Key] = []
        self.cluster = LocalCluster(state, on_event=self.events.append)
        self._changed = asyncio.Event()
        self.cluster.store.subscribe(lambda *_: self._changed.set())

    async def until(self, key: Key, condition: Callable[[Manifest], bool]) -> Manifest:
        """Waits until the object is so."""
        while True:
            self._changed.clear()
            found = self.cluster.store.get(key)
            if found is not None and condition(found):
                return found
            await self._changed.wait()


@asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    state = StateDirectory(root)
    with state.locked():
        running = World(state)
        running.cluster.store.load()
        running.cluster.start(running.woken.append)
        try:
            yield running
        finally:
            await running.cluster.stop()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(StateDirectory(tmp_path))


def secret(name: str, **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NS}, "stringData": data}


def owned(manifest: Manifest, owner: Manifest) -> Manifest:
    """The manifest as a child of `owner`."""
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


def claim(name: str) -> Manifest:
    metadata = {"name": name, "namespace": NS}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def deployment(command: list[str], **pod: Any) -> Manifest:
    """One container that runs `command`; `container` and the rest are added to its and the pod's spec."""
    container = {"name": "web", "command": command, **pod.pop("container", {})}
    replicas = {"replicas": pod.pop("replicas")} if "replicas" in pod else {}
    template = {"metadata": {}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 10, **pod}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NS},
        "spec": {**replicas, "template": template},
    }


def python(program: str, *args: object) -> list[str]:
    return [sys.executable, "-u", "-c", program, *map(str, args)]


def website(directory: Path, port: int) -> Manifest:
    """Serves a directory: ready while it holds `ready`, alive while it holds `alive`."""
    directory.mkdir(exist_ok=True)
    probes = {
        f"{name}Probe": {"httpGet": {"path": f"/{path}", "port": "http"}, **FAST}
        for name, path in (("startup", "alive"), ("readiness", "ready"), ("liveness", "alive"))
    }
    probes["startupProbe"]["failureThreshold"] = 600
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(directory)]
    return deployment(command, container={"ports": [{"name": "http", "containerPort": port}], **probes})


def available(manifest: Manifest) -> bool:
    return manifest.get("status", {}).get("availableReplicas") == 1


def failing(reason: str) -> Callable[[Manifest], bool]:
    """Whether a Deployment says that it can't run, with this reason."""

    def condition(manifest: Manifest) -> bool:
        conditions = manifest.get("status", {}).get("conditions", [])
        return any(found["type"] == "ReplicaFailure" and found["reason"] == reason for found in conditions)

    return condition


def message(manifest: Manifest) -> str:
    return str(manifest["status"]["conditions"][0]["message"])


def pid(manifest: Manifest) -> int:
    return int(manifest["status"]["process"]["pid"])


def a_registry(name: str, port: int = 5000) -> Manifest:
    spec = {"service": {"port": port}}
    return {
        "apiVersion": REGISTRY.api_version,
        "kind": "Registry",
        "metadata": {"name": name, "namespace": NS},
        "spec": spec,
    }


class TestPlacement:
    """Where a registry's process finds its files and listens."""

    def test_everything_is_in_the_state_directory_and_on_loopback(self, tmp_path: Path) -> None:
        """The address is the one to put before an image's name."""
        cluster: Cluster = LocalCluster(StateDirectory(tmp_path), on_event=lambda _: None)
        placement = cluster.placement(a_registry("a", 5001))
        assert placement.listen == "127.0.0.1:5001"
        assert placement.debug_listen.startswith("127.0.0.1:")
        assert placement.address == "localhost:5001"
        assert {"localhost", "127.0.0.1", "::1", socket.gethostname()} == set(placement.hosts)
        for path in (
            placement.config_directory,
            placement.tls_directory,
            placement.auth_directory,
            placement.data_directory,
        ):
            assert Path(path).is_relative_to(tmp_path)

    def test_the_debug_port_stays_until_it_is_taken(self, tmp_path: Path) -> None:
        """The same over restarts; another one for each registry, and once something else listens there."""

        def ports() -> list[int]:
            cluster = LocalCluster(StateDirectory(tmp_path), on_event=lambda _: None)
            placements = [cluster.placement(a_registry(name)) for name in ("a", "b", "a")]
            return [int(placement.debug_listen.rpartition(":")[2]) for placement in placements]

        first, second, again = ports()
        assert first == again != second
        assert ports() == [first, second, first]
        with socket.create_server(("127.0.0.1", first)):
            assert first not in ports()

    def test_state_directories_look_for_ports_at_different_places(self, tmp_path: Path) -> None:
        """Or two that start at once would agree on one."""
        clusters = [LocalCluster(StateDirectory(tmp_path / name), on_event=lambda _: None) for name in ("a", "b")]
        assert len({cluster.placement(a_registry("a")).debug_listen for cluster in clusters}) == 2


class TestObjects:
    """What the reconcile relies on, of an API server."""

    def test_an_apply_that_changes_nothing_writes_nothing(self, store: ObjectStore) -> None:
        """The resourceVersion stays, and no one is told."""
        first = store.apply(secret("s", key="value"))
        told: list[Key] = []
        store.subscribe(lambda key, *_: told.append(key))
        assert store.apply(secret("s", key="value")) is first
        assert told == []

    def test_the_generation_counts_changes_of_the_content(self, store: ObjectStore) -> None:
        """Labels and status are none."""
        made = store.apply(claim("c"))
        assert made["metadata"]["generation"] == 1
        labelled = {**claim("c"), "metadata": {**claim("c")["metadata"], "labels": {"a": "b"}}}
        assert store.apply(labelled)["metadata"]["generation"] == 1
        store.patch_status(key_of(made), {"phase": "Bound"})
        changed = store.apply({**labelled, "spec": {}})
        assert changed["metadata"]["generation"] == 2
        assert changed["status"] == {"phase": "Bound"}
        assert changed["metadata"]["uid"] == made["metadata"]["uid"]
        assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])

    def test_what_is_no_longer_said_goes(self, store: ObjectStore) -> None:
        """As with server-side apply by one manager."""
        store.apply(secret("s", old="1"))
        assert set(store.apply(secret("s", new="1"))["data"]) == {"new"}

    def test_children_go_with_their_owner_at_any_depth(self, store: ObjectStore) -> None:
        """But only with that very owner, told apart by its uid."""
        owner = store.apply(secret("owner"))
        child = store.apply(owned(secret("child"), owner))
        grandchild = store.apply(owned(secret("grandchild"), child))
        stranger = store.apply(secret("stranger"))
        store.delete(key_of(owner), uid="another")
        assert store.get(key_of(owner)) is not None
        store.delete(key_of(owner), uid=owner["metadata"]["uid"])
        assert [store.get(key_of(gone)) for gone in (owner, child, grandchild)] == [None] * 3
        assert store.get(key_of(stranger)) is not None

    def test_they_survive_a_restart(self, tmp_path: Path) -> None:
        """Byte for byte, and versions go on from where they were."""
        state = StateDirectory(tmp_path)
        before, after = ObjectStore(state), ObjectStore(state)
        made = before.apply(secret("s", key="value"))
        after.load()
        assert after.get(key_of(made)) == made
        newer = after.apply(secret("t"))
        assert int(newer["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])

    def test_what_does_not_take_part_stays_on_disk(self, tmp_path: Path) -> None:
        """With all it owns."""
        state = StateDirectory(tmp_path)
        before, after = ObjectStore(state), ObjectStore(state)
        owner = before.apply(secret("owner"))
        before.apply(owned(secret("child"), owner))
        before.apply(secret("other"))
        after.load(wanted=lambda manifest: manifest["metadata"]["name"] != "owner")
        assert [found["metadata"]["name"] for found in after.list(SECRET)] == ["other"]
        assert len(list(state.objects.rglob("*.json"))) == 3

    def test_lists_are_by_kind_namespace_and_labels(self, store: ObjectStore) -> None:
        """All of the labels have to match."""
        store.apply({**secret("a"), "metadata": {"name": "a", "namespace": "x", "labels": {"l": "1", "m": "1"}}})
        store.apply({**secret("b"), "metadata": {"name": "b", "namespace": "y", "labels": {"l": "1"}}})
        store.apply(claim("c"))
        assert len(store.list(SECRET)) == 2
        assert len(store.list(SECRET, namespace="x")) == 1
        assert len(store.list(SECRET, labels={"l": "1", "m": "1"})) == 1
        assert store.list(CONFIG_MAP) == []

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        """A lock says who."""
        with StateDirectory(tmp_path).locked():
            assert StateDirectory(tmp_path).running_pid() == os.getpid()
            with pytest.raises(StateInUse, match=str(os.getpid())), StateDirectory(tmp_path).locked():
                pass
        assert StateDirectory(tmp_path).running_pid() is None

    def test_a_claim_is_bound_and_its_content_outlives_it(self, tmp_path: Path) -> None:
        """No deletion touches the directory."""

        async def test() -> None:
            async with world(tmp_path) as here:
                made = await here.cluster.apply(claim("c"))
                assert made["status"]["phase"] == "Bound"
                assert made["status"]["capacity"] == {"storage": "1Gi"}
                content = here.state.claim(NS, "c") / "content"
                content.parent.mkdir(parents=True)
                content.write_text("precious")
                await here.cluster.delete(key_of(made), uid=made["metadata"]["uid"])
                assert await here.cluster.get(Key(PERSISTENT_VOLUME_CLAIM, NS, "c")) is None
                assert content.read_text() == "precious"

        run(test())

    def test_kinds_without_meaning_are_kept_and_said(self, tmp_path: Path) -> None:
        """Once."""

        async def test() -> None:
            async with world(tmp_path) as here:
                ingress = {
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "Ingress",
                    "metadata": {"name": "i"},
                    "spec": {},
                }
                for _ in range(2):
                    await here.cluster.apply(ingress)
                assert [event.message for event in here.events] == ["Ingress means nothing in local mode"]
                assert await here.cluster.get(key_of(ingress)) is not None

        run(test())

    def test_a_network_policy_is_spoken_of_where_it_would_keep_somebody_out(self, tmp_path: Path) -> None:
        """Every Registry has one; the port that it closes by default listens on loopback here."""

        async def test() -> None:
            async with world(tmp_path) as here:
                for name, rule in {"open": {}, "narrow": {"from": [{"podSelector": {}}]}}.items():
                    policy = {
                        "apiVersion": "networking.k8s.io/v1",
                        "kind": "NetworkPolicy",
                        "metadata": {"name": name},
                        "spec": {"podSelector": {}, "ingress": [rule]},
                    }
                    await here.cluster.apply(policy)
                    assert await here.cluster.get(key_of(policy)) is not None
                assert [(event.regarding.name, event.message) for event in here.events] == [
                    ("narrow", "NetworkPolicy means nothing in local mode")
                ]

        run(test())


class TestProcesses:
    """A Deployment is a process, and its status tells the truth about it."""

    def test_readiness_decides_about_availability(self, tmp_path: Path) -> None:
        """It comes, goes and comes back with the probe, in one and the same process."""

        async def test() -> None:
            site = tmp_path / "site"
            async with world(tmp_path / "state") as here:
                await here.cluster.apply(website(site, free_port()))
                (site / "alive").touch()
                await here.until(WEB, failing("NotReady"))
                (site / "ready").touch()
                serving = await here.until(WEB, available)
                (site / "ready").unlink()
                failed = await here.until(WEB, failing("NotReady"))
                assert "/ready" in message(failed)
                assert "404" in message(failed)
                (site / "ready").touch()
                assert pid(await here.until(WEB, available)) == pid(serving)

        run(test())

    def test_liveness_restarts(self, tmp_path: Path) -> None:
        """A process that is no longer alive is replaced by another."""

        async def test() -> None:
            site = tmp_path / "site"
            async with world(tmp_path / "state") as here:
                await here.cluster.apply(website(site, free_port()))
                for name in ("alive", "ready"):
                    (site / name).touch()
                first = pid(await here.until(WEB, available))
                (site / "alive").unlink()
                await here.until(WEB, failing("CrashLoopBackOff"))
                (site / "alive").touch()
                again = await here.until(WEB, available)
                assert pid(again) != first
                assert again["status"]["process"]["restarts"] == 1

        run(test())

    def test_a_changed_template_is_rolled_out(self, tmp_path: Path) -> None:
        """Old one first: both want the port. 0 replicas are none, a change of anything else leaves it alone."""

        async def test() -> None:
            site = tmp_path / "site"
            async with world(tmp_path / "state") as here:
                manifest = website(site, free_port())
                for name in ("alive", "ready"):
                    (site / name).touch()
                await here.cluster.apply(manifest)
                first = pid(await here.until(WEB, available))
                manifest["spec"]["progressDeadlineSeconds"] = 5
                await here.cluster.apply(manifest)
                seen = await here.until(WEB, lambda found: found["status"]["observedGeneration"] == 2)
                assert pid(seen) == first
                manifest["spec"]["template"]["metadata"] = {"annotations": {"changed": "yes"}}
                await here.cluster.apply(manifest)
                second = await here.until(WEB, lambda found: available(found) and pid(found) != first)
                assert second["status"]["observedGeneration"] == 3
                assert session(first) == []
                manifest["spec"]["replicas"] = 0
                await here.cluster.apply(manifest)
                await here.until(WEB, lambda found: found["status"]["conditions"][0]["reason"] == "ScaledToZero")
                assert session(pid(second)) == []

        run(test())

    def test_a_template_changed_during_start_up_is_rolled_out(self, tmp_path: Path) -> None:
        """As when `up` starts what it ran last, and then learns that the port is another one."""

        async def test() -> None:
            site = tmp_path / "site"
            async with world(tmp_path / "state") as here:
                manifest = website(site, free_port())
                await here.cluster.apply(manifest)
                first = pid(
                    await here.until(WEB, lambda found: bool(found.get("status", {}).get("process", {}).get("pid")))
                )
                manifest["spec"]["template"]["metadata"] = {"annotations": {"changed": "yes"}}
                await here.cluster.apply(manifest)
                for name in ("alive", "ready"):
                    (site / name).touch()
                second = await here.until(WEB, lambda found: available(found) and pid(found) != first)
                assert second["status"]["observedGeneration"] == 2

        run(test())

    def test_a_process_that_ends_says_why(self, tmp_path: Path) -> None:
        """The message holds its last words, what it has started goes with it, and it is tried again."""

        async def test() -> None:
            async with world(tmp_path) as here:
                child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
                program = f"import subprocess, sys; {child}; print('config.yml:3: no such key'); sys.exit(2)"
                await here.cluster.apply(deployment(python(program)))
                ended = await here.until(WEB, failing("CrashLoopBackOff"))
                assert "ended with exit code 2: config.yml:3: no such key" in message(ended)
                await here.until(WEB, lambda found: found["status"]["process"]["restarts"] == 2)

        run(test())

    def test_a_missing_secret_is_waited_for(self, tmp_path: Path) -> None:
        """Named while it is missing; mounted once it is there."""

        async def test() -> None:
            async with world(tmp_path) as here:
                where = here.state.registry(NS, "web") / "config"
                await here.cluster.apply(reader(where))
                waiting = await here.until(WEB, failing("CannotMount"))
                assert 'secret "late" not found' in message(waiting)
                await here.cluster.apply(secret("late", text="here"))
                await here.until(WEB, available)
                assert (where / "text").read_text() == "here"
                assert (where / "text").stat().st_mode & 0o777 == 0o600

        run(test())

    def test_a_changed_secret_reaches_the_running_process(self, tmp_path: Path) -> None:
        """All its files change in one step; the process is the same."""

        async def test() -> None:
            async with world(tmp_path) as here:
                where = here.state.registry(NS, "web") / "config"
                await here.cluster.apply(secret("late", text="old", more="old"))
                await here.cluster.apply(reader(where))
                running = await here.until(WEB, available)
                seen_by_process = Path(f"/proc/{pid(running)}/root") / where.relative_to("/")
                await here.cluster.apply(secret("late", text="new", other="new"))
                assert (seen_by_process / "text").read_text() == "new"
                assert sorted(path.name for path in where.iterdir() if not path.name.startswith("..")) == [
                    "other",
                    "text",
                ]
                assert pid(await here.until(WEB, available)) == pid(running)

        run(test())

    def test_a_mount_outside_of_the_state_directory_is_refused(self, tmp_path: Path) -> None:
        """No file of the machine is ever replaced."""

        async def test() -> None:
            async with world(tmp_path / "state") as here:
                target = tmp_path / "elsewhere"
                await here.cluster.apply(secret("late", text="x"))
                await here.cluster.apply(reader(target))
                refused = await here.until(WEB, failing("CannotMount"))
                assert "is outside of" in message(refused)
                assert not target.exists()

        run(test())

    def test_our_environment_stays_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """REGISTRY_* of a shell would reconfigure the server; what the pod says is there."""
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", ":1")

        async def test() -> None:
            async with world(tmp_path) as here:
                program = (
                    "import os; print(sorted(os.environ)); print(os.environ['GIVEN'], os.environ['SECRET']); exit(1)"
                )
                await here.cluster.apply(secret("s", key="from the secret"))
                source = {"secretKeyRef": {"name": "s", "key": "key"}}
                env = [{"name": "GIVEN", "value": "by the pod"}, {"name": "SECRET", "valueFrom": source}]
                await here.cluster.apply(deployment(python(program), container={"env": env}))
                await here.until(WEB, failing("CrashLoopBackOff"))
                names, values = here.state.log(NS, "web").read_text().splitlines()[:2]
                assert "REGISTRY_HTTP_ADDR" not in names
                assert values == "by the pod from the secret"

        run(test())

    @pytest.mark.parametrize("stubborn", ["itself", "its child"])
    def test_what_will_not_stop_is_killed(self, tmp_path: Path, stubborn: str) -> None:
        """The process after its grace period, and whatever it leaves behind when it ends."""

        async def test() -> None:
            ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn == "itself" else ""
            sleep = "import time; print('ready'); time.sleep(600)"
            program = f"{ignore}import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {sleep!r}]); {sleep}"
            async with world(tmp_path) as here:
                await here.cluster.apply(deployment(python(program), terminationGracePeriodSeconds=0.5))
                running = await here.until(WEB, available)
                await asyncio.to_thread(await_true, lambda: here.state.log(NS, "web").read_text() == 2 * "ready\n")
                assert len(session(pid(running))) == 2
                await here.cluster.delete(WEB, uid=running["metadata"]["uid"])
            # What gets SIGKILL is there until the kernel has come to it.
            await asyncio.to_thread(await_true, lambda: session(pid(running)) == [])

        run(test())

    def test_what_is_on_disk_from_before_is_not_believed(self, tmp_path: Path) -> None:
        """After `kill -9` a Deployment is available once its new process is, whatever was said of the old one."""

        async def test() -> None:
            site = tmp_path / "site"
            async with world(tmp_path / "state") as here:
                await here.cluster.apply(website(site, free_port()))
                for name in ("alive", "ready"):
                    (site / name).touch()
                served = await here.until(WEB, available)
                first = pid(served)
            left = ObjectStore(StateDirectory(tmp_path / "state"))
            left.load()
            left.patch_status(WEB, served["status"])
            (site / "alive").unlink()
            async with world(tmp_path / "state") as again:
                assert not available(again.cluster.store.get(WEB) or {})
                (site / "alive").touch()
                assert pid(await again.until(WEB, available)) != first

        run(test())


def reader(where: Path) -> Manifest:
    """A process that has the Secret `late` mounted, and sleeps."""
    return deployment(
        python("import time; time.sleep(600)"),
        container={"volumeMounts": [{"name": "config", "mountPath": str(where)}]},
        volumes=[{"name": "config", "secret": {"secretName": "late"}}],
    )
