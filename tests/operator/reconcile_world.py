"""A Registry on the API server, reconciled when a test says so and at the time it says."""

import asyncio
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from registry_operator.api.kinds import (
    CHILDREN,
    DEPLOYMENT,
    PERSISTENT_VOLUME_CLAIM,
    REGISTRY,
    SECRET,
    Kind,
)
from registry_operator.cluster.kubernetes.api import Api
from registry_operator.cluster.kubernetes.cluster import EVENT, KubernetesCluster
from registry_operator.cluster.protocol import Key
from registry_operator.reconcile.registry import Outcome, reconcile_registry
from tests.operator.answers import ANSWERS, jobs_url
from tests.operator.kube import Json, Kube

NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)


class World:
    """A namespace. Each reconcile is that of an operator which has just started: it remembers nothing."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.namespace = f"world-{uuid.uuid4().hex[:8]}"
        kube.create(NAMESPACE, "", self.namespace)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def end(self) -> None:
        """No Registry is left to operators that later tests run."""
        for registry in self.kube.all(REGISTRY, self.namespace):
            name = registry["metadata"]["name"]
            if registry["metadata"].get("finalizers"):
                self.kube.merge(REGISTRY, self.namespace, name, {"metadata": {"finalizers": None}})
            if self.get(REGISTRY, name) is not None:
                self.kube.delete(REGISTRY, self.namespace, name)

    # --- what happens

    def create(self, spec: Json | None = None, name: str = "team") -> Json:
        """A person creates a Registry."""
        return self.kube.create(REGISTRY, self.namespace, name, spec=spec or {})

    def change(self, spec: Json, name: str = "team") -> Json:
        """A person changes a Registry; null removes."""
        return self.kube.merge(REGISTRY, self.namespace, name, {"spec": spec})

    def secret(self, name: str, **data: str | bytes) -> Json:
        """A person stores a Secret, or stores it anew. Double underscores stand for dots."""
        encoded = {
            key.replace("__", "."): b64encode(value if isinstance(value, bytes) else value.encode()).decode()
            for key, value in data.items()
        }
        if self.get(SECRET, name) is not None:
            return self.kube.merge(SECRET, self.namespace, name, {"data": encoded})
        return self.kube.create(SECRET, self.namespace, name, data=encoded)

    def delete(self, child: str) -> None:
        """Somebody deletes a child, given as `Kind/name`."""
        kind, _, name = child.partition("/")
        self.kube.delete(next(known for known in CHILDREN if known.name == kind), self.namespace, name)

    def pass_time(self, **of: float) -> None:
        """The clock goes on."""
        self.now += timedelta(**of)

    def reconcile(self, name: str = "team") -> Outcome:
        """The operator looks at a Registry."""

        async def once(api: Api) -> Outcome:
            cluster = KubernetesCluster(api, namespaces=[self.namespace], jobs_url=jobs_url())
            # At once, as the API server lets each list after a write wait for up to a tenth of a second.
            await asyncio.gather(*(cluster.relist(kind) for kind in (REGISTRY, *CHILDREN)))
            return await reconcile_registry(cluster, Key(REGISTRY, self.namespace, name), clock=lambda: self.now)

        return self.kube.run(once)

    def server_says(self, answer: Json | None, name: str = "team") -> None:
        """A registry's server tells of its jobs; or answers no more."""
        ANSWERS[f"/{self.namespace}/{name}-metrics"] = answer

    def roll_out(self, name: str = "team", **status: Any) -> None:
        """The cluster's controllers finish their work, or as much of it as `status` says."""
        deployment = self.the(DEPLOYMENT, name)
        replicas = deployment["spec"]["replicas"]
        done = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
            "conditions": [condition("Available", "True"), condition("Progressing", "True", "NewReplicaSetAvailable")],
        }
        self.kube.merge(DEPLOYMENT, self.namespace, name, {"status": {**done, **status}}, "status")

    def serve(self, spec: Json | None = None) -> None:
        """From nothing to a Registry that serves."""
        self.create(spec)
        self.reconcile()
        self.roll_out()
        self.reconcile()

    # --- what is

    def get(self, kind: Kind, name: str) -> Json | None:
        """The live object, or None."""
        return self.kube.get(kind, self.namespace, name)

    def the(self, kind: Kind, name: str) -> Json:
        """The live object."""
        found = self.get(kind, name)
        assert found is not None, f"no {kind.name} {name}"
        return found

    def data(self, name: str) -> dict[str, str]:
        """What a Secret holds."""
        return {key: b64decode(value).decode() for key, value in self.the(SECRET, name)["data"].items()}

    def status(self, name: str = "team") -> Json:
        """A Registry's status."""
        return dict(self.the(REGISTRY, name).get("status", {}))

    def condition(self, type_: str, name: str = "team") -> tuple[str, str, str]:
        """A condition's status, reason and message."""
        found = self.kube.condition(self.namespace, name, type_)
        return found["status"], found["reason"], found["message"]

    def degraded(self, name: str = "team") -> tuple[str, str]:
        """Reason and message of the fault."""
        status, reason, message = self.condition("Degraded", name)
        assert status == "True", message
        return reason, message

    def children(self) -> list[str]:
        """All children as `Kind/name`."""
        return sorted(f"{kind}/{name}" for kind, _, name in self.kube.children(self.namespace))

    def events(self) -> list[tuple[str, str]]:
        """Type and reason of the Events, in the order of their making."""
        items = self.kube.all(EVENT, self.namespace)
        return [(item["type"], item["reason"]) for item in sorted(items, key=lambda item: str(item["eventTime"]))]

    def claim_is(self, name: str, **status: Any) -> None:
        """The cluster's volume controllers say something of a claim."""
        self.kube.merge(PERSISTENT_VOLUME_CLAIM, self.namespace, name, {"status": status}, "status")

    @contextmanager
    def without_writes(self) -> Iterator[None]:
        """Fails if a write request of any kind is sent meanwhile."""
        before = self.kube.writes(), self.kube.versions(self.namespace)
        yield
        assert (self.kube.writes(), self.kube.versions(self.namespace)) == before


def condition(type_: str, status: str, reason: str = "Given", message: str = "") -> Json:
    """A Deployment's condition."""
    return {"type": type_, "status": status, "reason": reason, "message": message}
