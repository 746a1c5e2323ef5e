"""`Cluster` on one machine: objects in a state directory, Deployments as processes.

The reconcile and the plan above it are the ones that run against Kubernetes; this engine plays the few kinds that
matter to a registry. The others are kept, and said to mean nothing here.
"""

import logging
import socket
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from registry_operator.api.kinds import CHILDREN, DEPLOYMENT, NETWORK_POLICY, PERSISTENT_VOLUME_CLAIM, REGISTRY, Kind
from registry_operator.api.placement import Placement
from registry_operator.cluster.asking import ask
from registry_operator.cluster.local.ports import refusal
from registry_operator.cluster.local.state import StateDirectory, write_private
from registry_operator.cluster.local.store import ObjectStore, key_of
from registry_operator.cluster.local.supervisor import Supervisor
from registry_operator.cluster.protocol import Key, Manifest

logger = logging.getLogger(__name__)

_DEBUG_PORTS: Final = range(20000, 30000)
"""Where health and metrics listen: below the ports that the kernel gives to outgoing connections."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person may want to know about an object, when it happens."""

    regarding: Key
    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


class LocalCluster:
    """A `Cluster` over one state directory, which must be locked meanwhile."""

    def __init__(self, state: StateDirectory, *, on_event: Callable[[Event], None]) -> None:
        self._state = state
        self.store: Final = ObjectStore(state)
        self._supervisor = Supervisor(state, self.store)
        self._on_event = on_event
        self._debug_ports: dict[Key, int] = {}

    def start(self, wake: Callable[[Key], None]) -> None:
        """Run the processes of what is in the store. `wake` is told of each Registry there is reason to reconcile."""

        def on_change(key: Key, before: Manifest | None, after: Manifest | None) -> None:
            if key.kind == PERSISTENT_VOLUME_CLAIM and after is not None:
                self._bind(key, after)
            for registry in self._concerned(key, after or before or {}):
                wake(registry)

        self._forget_former_life()
        self.store.subscribe(on_change)
        for claim in self.store.list(PERSISTENT_VOLUME_CLAIM):
            self._bind(key_of(claim), claim)
        self._supervisor.start()
        for registry in self.store.list(REGISTRY):
            wake(key_of(registry))

    async def stop(self) -> None:
        """Stop all processes, each within its grace period."""
        await self._supervisor.stop()

    def kill(self) -> None:
        """Wait no longer for processes that are being stopped."""
        self._supervisor.kill()

    async def get(self, key: Key) -> Manifest | None:
        """The object, or None where there is none."""
        return self.store.get(key)

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects of a kind that carry all of `labels`."""
        return self.store.list(kind, namespace=namespace, labels=labels)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or change the object. Returns it as stored."""
        key = key_of(manifest)
        known = self.store.get(key) is not None
        applied = self.store.apply(manifest)
        if _is_missed(key.kind, manifest) and not known:
            self._on_event(Event(key, "Normal", "Recorded", f"{key.kind.name} means nothing in local mode"))
        return self.store.get(key) or applied

    async def delete(self, key: Key, *, uid: str) -> None:
        """Delete the object if it still is the one with this `uid`, and what it owns. Volumes keep their content."""
        self.store.delete(key, uid=uid)

    async def patch_status(self, key: Key, status: Mapping[str, Any]) -> None:
        """Replace the object's status."""
        self.store.patch_status(key, status)

    async def emit_event(
        self, regarding: Manifest, *, kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Tell whoever watches."""
        self._on_event(Event(key_of(regarding), kind, reason, message))

    async def jobs(self, registry: Manifest) -> Any | None:
        """What this Registry's server says of its jobs."""
        return await ask(f"http://127.0.0.1:{self._debug_port(key_of(registry))}/jobs")

    async def images(self, hosts: Collection[str]) -> Collection[str]:  # noqa: ARG002
        """None: there are no pods."""
        return ()

    def placement(self, registry: Manifest) -> Placement:
        """Where the process of this Registry finds its files and listens."""
        key = key_of(registry)
        directory = self._state.registry(str(key.namespace), key.name)
        port = registry["spec"]["service"]["port"]
        return Placement(
            config_directory=str(directory / "config"),
            tls_directory=str(directory / "tls"),
            auth_directory=str(directory / "auth"),
            data_directory=str(directory / "data"),
            backup_directory=str(directory / "backup"),
            bootstrap_directory=str(directory / "bootstrap"),
            listen=f"127.0.0.1:{port}",
            debug_listen=f"127.0.0.1:{self._debug_port(key)}",
            operator=None,
            notice=timedelta(0),
            hosts=tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname()))),
            address=f"localhost:{port}",
        )

    def _forget_former_life(self) -> None:
        """What is on disk was said of processes that have ended since."""
        for deployment in self.store.list(DEPLOYMENT):
            self.store.patch_status(key_of(deployment), {})
        for registry in self.store.list(REGISTRY):
            lasting = {name: value for name, value in registry.get("status", {}).items() if name != "conditions"}
            self.store.patch_status(key_of(registry), lasting)

    def _bind(self, key: Key, claim: Manifest) -> None:
        """A claim gets its volume at once: a directory, whose size nothing limits."""
        size = claim["spec"].get("resources", {}).get("requests", {}).get("storage")
        capacity = {"capacity": {"storage": size}} if size else {}
        modes = claim["spec"].get("accessModes", [])
        self.store.patch_status(key, {"phase": "Bound", "accessModes": modes, **capacity})

    def _debug_port(self, registry: Key) -> int:
        """A port for health and metrics that stays the same, also over restarts, until something else has taken it."""
        path = self._state.registry(str(registry.namespace), registry.name) / "debug-port"
        if path.exists() and self._is_usable(registry, port := int(path.read_text())):
            self._debug_ports[registry] = port
            return port
        # Where the search begins differs between state directories: two that start at once must not meet.
        first = zlib.crc32(f"{self._state.root}:{registry.namespace}/{registry.name}".encode())
        spread = (_DEBUG_PORTS[(first + offset) % len(_DEBUG_PORTS)] for offset in range(len(_DEBUG_PORTS)))
        port = next(port for port in spread if self._is_usable(registry, port))
        write_private(path, f"{port}\n".encode())
        self._debug_ports[registry] = port
        return port

    def _is_usable(self, registry: Key, port: int) -> bool:
        """Whether no other registry has the port, and nothing of the machine's but perhaps its own process."""
        if any(taken == port for other, taken in self._debug_ports.items() if other != registry):
            return False
        return self._supervisor.holds(port) or refusal(port) is None

    def _concerned(self, key: Key, manifest: Manifest) -> Iterator[Key]:
        """The Registries that a change of this object may mean something to.

        What belongs to a Registry concerns it alone. Any other Secret, ConfigMap or claim may be one that a Registry
        names, and on one machine it is cheap to ask them all.
        """
        if key.kind == REGISTRY:
            yield key
            return
        owners = [owner["name"] for owner in manifest["metadata"].get("ownerReferences", ())]
        if owners:
            yield from (Key(REGISTRY, key.namespace, name) for name in owners)
        elif key.kind in CHILDREN:
            yield from (key_of(registry) for registry in self.store.list(REGISTRY, namespace=key.namespace))


def _is_missed(kind: Kind, manifest: Manifest) -> bool:
    """Whether a person counts on what the object would do in a cluster, and does not get it here."""
    if kind == NETWORK_POLICY:
        # One that names nobody keeps only the port of metrics from the network, and here that listens on loopback.
        return any("from" in rule for rule in manifest["spec"].get("ingress", ()))
    return kind not in {REGISTRY, *CHILDREN}
