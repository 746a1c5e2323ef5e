"""Runs `load.py` in a pod of the cluster, and reads what it found."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.harness.namespaces import Json, Namespace, pod_of
from tests.e2e.harness.product import Product
from tests.e2e.harness.registries import LiveRegistry

_SCRIPT = Path(__file__).with_name("load.py")
_START_TIMEOUT = 120
_END_TIMEOUT = 600
"""Seconds. Where Secrets reach pods slowly a load runs long, and all that it has pushed is pulled again."""


@dataclass
class Report:
    """What a load found, complete once it has ended."""

    requests: int = 0
    failures: list[Json] = field(default_factory=list)
    """Each with the request, its reason and its time (seconds since 1970)."""
    resent: int = 0
    """Requests sent again as the server had closed a kept connection."""
    pushed: int = 0
    pulled: int = 0
    lost: int = 0
    """Images whose push was acknowledged and that could not be pulled at the end."""


@contextmanager
def load(
    registry: LiveRegistry, product: Product, *, clients: int = 4, secret: str | None = None, name: str = "load"
) -> Iterator[Report]:
    """Pushes and pulls all the time while the block runs; from its first pull on, until what was pushed is verified.

    It logs in by a Secret with `username` and `password`, by default the registry's generated login. The pod reads both
    this and the authority's certificate anew when they change, a while after.
    """
    namespace, report = registry.namespace, Report()
    _start(namespace, registry, product, clients, secret or f"{registry.name}-admin", name)
    try:
        _await_line(namespace, name, "ready", _START_TIMEOUT)
        yield report
        namespace.kubectl("exec", name, "--", "python", "-c", "open('/tmp/stop', 'w').close()")
        _read(report, _await_line(namespace, name, "requests", _END_TIMEOUT))
    finally:
        namespace.kubectl("delete", "pod", name, "--grace-period=0", "--ignore-not-found", "--wait=false")
        namespace.kubectl("delete", "configmap", name, "--ignore-not-found")


def _start(
    namespace: Namespace, registry: LiveRegistry, product: Product, clients: int, secret: str, name: str
) -> None:
    files = {"load.py": _SCRIPT.read_text()}
    command = ["python", "-I", "/load/load.py", f"https://{registry.address}", "--ca=/ca/ca.crt", "--login=/login"]
    volumes: list[dict[str, Any]] = [
        {"name": "load", "configMap": {"name": name}},
        {"name": "ca", "configMap": {"name": f"{registry.name}-ca"}},
        {"name": "login", "secret": {"secretName": secret}},
        {"name": "tmp", "emptyDir": {}},
    ]
    command += [f"--clients={clients}", "--stop=/tmp/stop"]
    pod = pod_of(name, product.server, *command, volumes=volumes, restartPolicy="Never")
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    pod["spec"]["containers"][0]["volumeMounts"] = mounts
    namespace.kubectl("delete", "pod", name, "--ignore-not-found", "--timeout=60s")
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}, pod)
    namespace.wait(f"pod/{name}", "condition=Ready", seconds=_START_TIMEOUT)


def _await_line(namespace: Namespace, name: str, key: str, timeout: int) -> list[Json]:
    """Waits for a line with the key, and returns all that there are."""
    deadline = time.monotonic() + timeout
    while True:
        said = namespace.kubectl("logs", name).splitlines()
        lines: list[Json] = [json.loads(line) for line in said if line.startswith("{")]
        if any(key in line for line in lines):
            return lines
        if time.monotonic() > deadline:
            raise AssertionError(f"the load did not say {key} within {timeout} s, but:\n" + "\n".join(said[-20:]))
        time.sleep(0.5)


def _read(report: Report, lines: list[Json]) -> None:
    report.failures = [line for line in lines if "failure" in line]
    summary = next(line for line in lines if "requests" in line)
    for name in ("requests", "resent", "pushed", "pulled", "lost"):
        setattr(report, name, summary[name])
    if summary["failed"] > len(report.failures):
        report.failures.append({"failure": f"{summary['failed'] - len(report.failures)} more", "reason": "not logged"})
