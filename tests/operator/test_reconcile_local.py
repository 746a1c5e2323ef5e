"""The reconcile over local mode's engine, which stores what only an older CRD may have let in."""

import asyncio
import socket
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from registry_operator.api.kinds import CHILDREN, REGISTRY, SECRET
from registry_operator.cluster.local.cluster import Event, LocalCluster
from registry_operator.cluster.local.state import StateDirectory
from registry_operator.cluster.protocol import Key, Manifest
from registry_operator.reconcile.registry import reconcile_registry

Json = dict[str, Any]
KEY = Key(REGISTRY, "images", "team")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Machine:
    """Local mode's engine, which stores what it is given; no process runs."""

    def __init__(self, state: StateDirectory) -> None:
        self.events: list[Event] = []
        self.cluster = LocalCluster(state, on_event=self.events.append)

    def store(self, spec: Any) -> None:
        """Puts a Registry where no CRD is asked."""
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        manifest = {"apiVersion": REGISTRY.api_version, "kind": REGISTRY.name, "metadata": metadata, "spec": spec}
        asyncio.run(self.cluster.apply(manifest))

    def reconcile(self) -> tuple[str, str, str]:
        """The operator looks; status, reason and message of what it finds."""
        asyncio.run(reconcile_registry(self.cluster, KEY, clock=lambda: NOW))
        conditions = self.live()["status"]["conditions"]
        degraded = next(condition for condition in conditions if condition["type"] == "Degraded")
        return degraded["status"], degraded["reason"], degraded["message"]

    def live(self) -> Manifest:
        """The Registry as stored."""
        live = asyncio.run(self.cluster.get(KEY))
        assert live is not None
        return live

    def secret(self, name: str) -> dict[str, bytes]:
        """What a Secret holds."""
        live = asyncio.run(self.cluster.get(Key(SECRET, KEY.namespace, name)))
        assert live is not None
        return {key: b64decode(value) for key, value in live["data"].items()}

    def children(self) -> list[str]:
        """All children as `Kind/name`."""
        return [
            f"{kind.name}/{live['metadata']['name']}"
            for kind in CHILDREN
            for live in asyncio.run(self.cluster.list(kind))
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with an empty state directory."""
    return Machine(StateDirectory(tmp_path))


SERVICE = {"service": {"type": "ClusterIP", "port": 5000}}


class TestInvalidSpecs:
    """Each degrades, says what is wrong, and leaves what runs alone."""

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"storage": {"s3": {"bucket": "images"}}}, "spec.storage.s3: Extra inputs are not permitted"),
            ({"tls": {"disabled": {}, "selfSigned": {}}}, "exactly one must be given"),
            ({"replicas": "many"}, "spec.replicas: Input should be a valid integer"),
            ({"service": "all"}, "spec.service"),
            ("all", "spec"),
        ],
    )
    def test_it_degrades(self, machine: Machine, spec: Any, words: str) -> None:
        """With the field's name."""
        machine.store(spec)
        status, reason, message = machine.reconcile()
        assert (status, reason) == ("True", "InvalidSpec")
        assert words in message
        assert machine.children() == []

    def test_what_runs_goes_on(self, machine: Machine) -> None:
        """Children of the last good spec stay, and so does what the status says of them."""
        machine.store(SERVICE)
        machine.reconcile()
        children, status = machine.children(), machine.live()["status"]
        assert children
        machine.store({**SERVICE, "replicas": -1})
        assert machine.reconcile()[1] == "InvalidSpec"
        assert machine.children() == children
        kept = machine.live()["status"]
        assert {key: kept[key] for key in status if key not in ("conditions", "observedGeneration")} == {
            key: status[key] for key in status if key not in ("conditions", "observedGeneration")
        }

    def test_it_heals(self, machine: Machine) -> None:
        """As soon as the spec is good."""
        machine.store({**SERVICE, "replicas": -1})
        machine.reconcile()
        machine.store(SERVICE)
        assert machine.reconcile()[0] == "False"
        assert [(event.kind, event.reason) for event in machine.events] == [
            ("Warning", "InvalidSpec"),
            ("Normal", "Recovered"),
        ]


class TestHosts:
    """The certificate is for the hosts by which the registry is reached."""

    def test_other_hosts_get_another_certificate(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the same authority, as when a laptop is renamed."""
        names = []
        for host in ("before.example.com", "after.example.com"):
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            machine.store(SERVICE)
            machine.reconcile()
            tls = machine.secret("team-tls")
            certificate = x509.load_pem_x509_certificate(tls["tls.crt"])
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names.append(extension.value.get_values_for_type(x509.DNSName))
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(machine.secret("team-ca")["tls.crt"]))
        assert names == [["localhost", "before.example.com"], ["localhost", "after.example.com"]]


class TestSecondEngine:
    """What holds on the API server holds on one machine."""

    def test_a_second_look_changes_nothing(self, machine: Machine) -> None:
        """Nor one after a restart, which reads the objects from disk."""
        machine.store(SERVICE)
        machine.reconcile()
        before = [asyncio.run(machine.cluster.list(kind)) for kind in (REGISTRY, *CHILDREN)]
        machine.reconcile()
        assert [asyncio.run(machine.cluster.list(kind)) for kind in (REGISTRY, *CHILDREN)] == before
