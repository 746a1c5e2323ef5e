"""`registry-operator run` as a process against a real API server: what one Registry becomes, and what happens to it."""

import base64
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_operator.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    PERSISTENT_VOLUME_CLAIM,
    REGISTRY,
    SECRET,
    SERVICE,
    Kind,
)
from registry_operator.runtime.elector import LEASE
from tests.fixtures import forked
from tests.operator.kube import Json, Kube, Operator, Wire, eventually, opaque, operator

CHILDREN_OF_TEAM = [
    "ConfigMap/team-ca",
    "Deployment/team",
    "NetworkPolicy/team",
    "PersistentVolumeClaim/team-data",
    "Secret/team-admin",
    "Secret/team-ca",
    "Secret/team-config",
    "Secret/team-tls",
    "Service/team",
    "Service/team-metrics",
    "ServiceAccount/team",
]


@pytest.fixture
def running(kube: Kube, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """The operator, looking after the test's namespace."""
    arguments = (f"--namespace={namespace}", f"--leader-election-namespace={namespace}", "--log-format=text")
    with operator(kube.api.kubeconfig, tmp_path, *arguments) as process:
        process.await_running()
        yield process
        assert "Traceback" not in process.log


def converged(kube: Kube, namespace: str, name: str = "team") -> bool:
    """Whether the Registry has all its children and a status."""
    expected = sorted(child.replace("/team", f"/{name}") for child in CHILDREN_OF_TEAM)
    return kube.children_of(namespace, name) == expected and bool(kube.condition(namespace, name, "Ready"))


def observed(kube: Kube, namespace: str, name: str = "team") -> bool:
    """Whether the Registry's children are those of its newest generation: the status is written after them."""
    live = kube.get(REGISTRY, namespace, name) or {}
    return bool(live["metadata"]["generation"] == live.get("status", {}).get("observedGeneration"))


def make_available(kube: Kube, namespace: str, name: str = "team") -> None:
    """Plays the Deployment controller: the pods run."""
    deployment = kube.get(DEPLOYMENT, namespace, name)
    assert deployment is not None
    replicas = deployment["spec"]["replicas"]
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": replicas,
        "availableReplicas": replicas,
        "conditions": [
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": "runs"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": "done"},
        ],
    }
    kube.merge(DEPLOYMENT, namespace, name, {"status": status}, subresource="status")


class TestARegistry:
    def test_becomes_its_children_and_says_how_far_it_is(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        ready = kube.condition(namespace, "team", "Ready")
        assert ready["status"] == "False"
        make_available(kube, namespace)
        eventually(lambda: kube.condition(namespace, "team", "Ready").get("status") == "True")
        live = kube.get(REGISTRY, namespace, "team")
        assert live is not None
        assert live["status"]["observedGeneration"] == live["metadata"]["generation"]
        assert live["status"]["address"] == f"team.{namespace}.svc:5000"
        assert kube.condition(namespace, "team", "Degraded")["status"] == "False"

    def test_that_changes_changes_its_children(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        kube.merge(
            REGISTRY,
            namespace,
            "team",
            {"spec": {"service": {"port": 443}, "tls": {"selfSigned": None, "disabled": {}}}},
        )
        eventually(lambda: observed(kube, namespace))
        assert (kube.get(SERVICE, namespace, "team") or {})["spec"]["ports"][0]["port"] == 443
        # What TLS needed stays until the pods that use it are gone.
        make_available(kube, namespace)
        eventually(lambda: kube.get(SECRET, namespace, "team-tls") is None)
        assert kube.get(SECRET, namespace, "team-config") is not None

    def test_that_is_left_alone_costs_no_write(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        running.await_idle()
        before, writes = kube.versions(namespace), kube.writes()
        kube.merge(REGISTRY, namespace, "team", {"metadata": {"annotations": {"touched": "yes"}}})
        running.await_idle()
        after = kube.versions(namespace)
        assert {key for key in before if before[key] != after[key]} == {("Registry", namespace, "team")}
        assert kube.writes() == writes + 1


class TestDrift:
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (SERVICE, "team"),
            (DEPLOYMENT, "team"),
            (CONFIG_MAP, "team-ca"),
            (SECRET, "team-config"),
            (SECRET, "team-tls"),
        ],
        ids=lambda value: value.name if isinstance(value, Kind) else value,
    )
    def test_a_child_deleted_by_hand_comes_back(
        self, running: Operator, kube: Kube, namespace: str, kind: Kind, name: str
    ) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        old = kube.get(kind, namespace, name)
        assert old is not None
        kube.delete(kind, namespace, name)
        new = eventually(lambda: kube.get(kind, namespace, name))
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert (new.get("spec") or {}).get("selector") == (old.get("spec") or {}).get("selector")

    def test_a_field_changed_by_hand_is_put_back_and_foreign_ones_are_left(
        self, running: Operator, kube: Kube, namespace: str
    ) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        change: Json = {
            "metadata": {"annotations": {"theirs": "kept"}, "labels": {"app.kubernetes.io/managed-by": "somebody"}},
            "spec": {"template": {"spec": {"serviceAccountName": "default"}}},
        }
        kube.merge(DEPLOYMENT, namespace, "team", change)

        def repaired() -> bool:
            live = kube.get(DEPLOYMENT, namespace, "team") or {}
            return bool(
                live["spec"]["template"]["spec"]["serviceAccountName"] == "team"
                and live["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "regatta"
                and live["metadata"]["annotations"]["theirs"] == "kept"
            )

        eventually(repaired)

    def test_a_login_survives_everything_but_its_own_deletion(
        self, running: Operator, kube: Kube, namespace: str
    ) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        before = (kube.get(SECRET, namespace, "team-admin") or {})["data"]
        kube.merge(SECRET, namespace, "team-admin", {"data": {"htpasswd": base64.b64encode(b"admin:broken").decode()}})

        def repaired() -> Json | None:
            data = (kube.get(SECRET, namespace, "team-admin") or {})["data"]
            return data if data["htpasswd"] != base64.b64encode(b"admin:broken").decode() else None

        assert eventually(repaired)["password"] == before["password"]


class TestABrokenRegistry:
    def test_degrades_alone_and_heals_when_its_secret_appears(
        self, running: Operator, kube: Kube, namespace: str
    ) -> None:
        kube.create(REGISTRY, namespace, "broken", spec={"access": {"htpasswd": {"secretRef": {"name": "users"}}}})
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: kube.condition(namespace, "broken", "Degraded").get("status") == "True")
        eventually(lambda: converged(kube, namespace))
        degraded = kube.condition(namespace, "broken", "Degraded")
        assert "users" in degraded["message"]
        assert kube.condition(namespace, "team", "Degraded")["status"] == "False"
        assert kube.children_of(namespace, "broken") == []
        users = subprocess.run(
            [Path(sys.executable).parent / "registry-server", "htpasswd", "ci"],
            input=b"secret\n",
            capture_output=True,
            check=True,
        ).stdout
        kube.create(SECRET, namespace, "users", **opaque(htpasswd=users))
        # Long before the next look without a cause: the Secret's appearance wakes it.
        eventually(lambda: kube.condition(namespace, "broken", "Degraded").get("status") == "False", within=20)
        assert "Deployment/broken" in kube.children_of(namespace, "broken")
        kube.delete(SECRET, namespace, "users")
        eventually(lambda: kube.condition(namespace, "broken", "Degraded").get("status") == "True", within=20)
        shown = kube.api.kubectl("describe", "registry", "broken", f"--namespace={namespace}")
        assert degraded["reason"] in shown.partition("Events:")[2]

    def test_whose_claim_appears_heals(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={"storage": {"filesystem": {"existingClaim": "old"}}})
        eventually(lambda: kube.condition(namespace, "team", "Degraded").get("status") == "True")
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        kube.create(PERSISTENT_VOLUME_CLAIM, namespace, "old", spec=claim)
        eventually(lambda: kube.condition(namespace, "team", "Degraded").get("status") == "False", within=20)

    def test_whose_name_is_taken_leaves_the_other_object_alone(
        self, running: Operator, kube: Kube, namespace: str
    ) -> None:
        theirs = kube.create(SERVICE, namespace, "team", spec={"ports": [{"port": 80}], "selector": {"app": "theirs"}})
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: kube.condition(namespace, "team", "Degraded").get("reason") == "NameTaken")
        assert kube.get(SERVICE, namespace, "team") == theirs


def _port(service: Json | None) -> int | None:
    return None if service is None else service["spec"]["ports"][0]["port"]


class TestTheProcess:
    def test_tells_its_state_and_figures(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        for where in ("/healthz", "/readyz"):
            answer = running.get(where)
            assert answer is not None
            assert answer.status_code == 200
        assert running.metric("regatta_operator_leader") == 1
        assert running.metric("regatta_operator_reconciles_total", result="failed") == 0
        assert running.metric("regatta_operator_api_requests_total", method="PATCH", code="201") == len(
            CHILDREN_OF_TEAM
        )
        assert running.metric("process_resident_memory_bytes") > 0

    def test_survives_an_api_server_that_comes_and_goes(
        self, kube: Kube, namespace: str, wire: Wire, tmp_path: Path
    ) -> None:
        """What was deleted while nothing could be watched is noticed, though no watch ever tells."""
        arguments = (f"--namespace={namespace}", "--no-leader-election", "--log-format=text")
        with operator(wire.kubeconfig(kube.api, tmp_path), tmp_path, *arguments) as process:
            process.await_running()
            kube.create(REGISTRY, namespace, "team", spec={})
            eventually(lambda: converged(kube, namespace))
            wire.cut()
            kube.delete(SERVICE, namespace, "team")
            kube.merge(REGISTRY, namespace, "team", {"spec": {"service": {"port": 443}}})
            wire.mend()
            # It may hear of the deleted Service before it hears of the changed Registry: what counts is where it ends.
            eventually(lambda: _port(kube.get(SERVICE, namespace, "team")) == 443)
            process.process.check_alive()

    def test_waits_for_an_api_server_and_the_crds(self, kube: Kube, namespace: str, wire: Wire, tmp_path: Path) -> None:
        wire.cut()
        kubeconfig = wire.kubeconfig(kube.api, tmp_path)
        arguments = (f"--namespace={namespace}", "--no-leader-election", "--log-format=text")
        with operator(kubeconfig, tmp_path, *arguments) as process:
            eventually(lambda: "waiting for the API server" in process.log)
            answer = process.get("/readyz")
            assert answer is not None
            assert answer.status_code == 503
            assert (process.get("/healthz") or answer).status_code == 200
            wire.mend()
            process.await_running()

    def test_ends_on_sigterm_with_its_lease_given_back(self, running: Operator, kube: Kube, namespace: str) -> None:
        kube.create(REGISTRY, namespace, "team", spec={})
        eventually(lambda: converged(kube, namespace))
        running.signal(signal.SIGTERM)
        assert "exit code 0" in eventually(running.ended, within=10)
        lease = kube.get(LEASE, namespace, "regatta-operator")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == ""
        assert running.log.rstrip().endswith("stopped")

    def test_of_two_one_leads_and_the_other_takes_over(
        self, running: Operator, kube: Kube, namespace: str, tmp_path: Path
    ) -> None:
        arguments = (f"--namespace={namespace}", f"--leader-election-namespace={namespace}")
        with operator(kube.api.kubeconfig, tmp_path, *arguments) as second:
            eventually(lambda: (answer := second.get("/readyz")) and answer.text.startswith("standing by"))
            kube.create(REGISTRY, namespace, "team", spec={})
            eventually(lambda: converged(kube, namespace))
            assert second.metric("regatta_operator_reconciles_total") == 0
            running.signal(signal.SIGTERM)
            second.await_running()
            kube.delete(SERVICE, namespace, "team")
            eventually(lambda: kube.get(SERVICE, namespace, "team"))

    def test_that_loses_its_lease_ends_at_once(self, kube: Kube, namespace: str, tmp_path: Path) -> None:
        arguments = (f"--namespace={namespace}", f"--leader-election-namespace={namespace}", "--log-format=text")
        with operator(kube.api.kubeconfig, tmp_path, *arguments) as process:
            process.await_running()
            kube.merge(LEASE, namespace, "regatta-operator", {"spec": {"holderIdentity": "usurper"}})
            assert "exit code 1" in eventually(process.ended, within=20)
            assert "held by usurper" in process.log


class TestTheCommandLine:
    @staticmethod
    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        nothing = {"HOME": "/nonexistent", "KUBECONFIG": ""}
        return forked.run("registry-operator", *arguments, env=nothing | environment)

    def test_without_credentials_it_says_what_to_do(self) -> None:
        done = self.run("run", "--metrics-addr=127.0.0.1:0")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "/nonexistent/.kube/config" in done.stderr
        assert "set KUBECONFIG" in done.stderr

    def test_a_port_in_use_is_named(self, running: Operator, kube: Kube) -> None:
        address = running.url.removeprefix("http://")
        done = self.run("run", f"--metrics-addr={address}", KUBECONFIG=str(kube.api.kubeconfig))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"cannot listen on {address}" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--metrics-addr=8080"], "is not an address"),
            (["--metrics-addr=:x"], "is not an address"),
            (["--workers=0"], "workers"),
            (["--namespace=a", "--all-namespaces"], "exclude each other"),
        ],
    )
    def test_wrong_options_are_refused(self, arguments: list[str], message: str) -> None:
        done = self.run("run", *arguments)
        assert done.returncode == 2
        assert message in done.stderr

    def test_help_needs_nothing_heavy(self) -> None:
        code = (
            "import sys; from registry_operator.cli import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'kopf', 'kubernetes', 'aiohttp', 'cryptography'} & set(sys.modules)))"
        )
        done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
        assert "registry-operator local up" in done.stdout
