"""Namespaces for tests, and pods that pod security `restricted` admits."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tests.e2e.cluster import Cluster

Json = dict[str, Any]

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
ENFORCED = tuple(f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
"""Labels of a namespace that takes nothing but restricted pods."""


class Namespace:
    """A namespace of the cluster that enforces pod security `restricted`."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    @classmethod
    def create(cls, cluster: Cluster, name: str) -> "Namespace":
        """Makes it, and waits until pods can be made in it."""
        cluster.kubectl("create", "namespace", name)
        cluster.kubectl("label", "namespace", name, *ENFORCED)
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=60s")
        return cls(cluster, name)

    @classmethod
    def new(cls, cluster: Cluster, prefix: str) -> "Namespace":
        """One with a name that nobody has."""
        return cls.create(cluster, f"{prefix}-{secrets.token_hex(3)}")

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 300) -> str:  # noqa: A002, as in `run`
        return self.cluster.kubectl("-n", self.name, *args, input=input, timeout=timeout)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, *args: str) -> Json:
        """The object, or the list of those that are selected."""
        found: Json = json.loads(self.kubectl("get", *args, "-o=json"))
        return found

    def wait(self, what: str, condition: str, *, seconds: int = 120) -> None:
        """Waits as `kubectl wait --for=CONDITION` does; raises `CommandFailed`."""
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={seconds}s", timeout=seconds + 30)

    def pods(self, selector: str) -> list[Json]:
        """Those that are not going."""
        found: list[Json] = self.get("pods", f"--selector={selector}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def output(self, pod: Mapping[str, Any], *, seconds: int = 120) -> str:
        """Runs a pod to its end and returns what it logs; one that fails does not end in time."""
        name = pod["metadata"]["name"]
        self.apply(pod)
        self.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded", seconds=seconds)
        said = self.kubectl("logs", name)
        self.kubectl("delete", "pod", name)
        return said


def pod_of(name: str, image: str, *command: str, labels: Mapping[str, str] | None = None, **spec: object) -> Json:
    """A restricted pod of one container `main`; `spec` adds to the pod's."""
    container: Json = {"name": "main", "image": image, "securityContext": RESTRICTED}
    if command:
        container["command"] = list(command)
    whole = {"containers": [container], "terminationGracePeriodSeconds": 0, "restartPolicy": "OnFailure"} | spec
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}
