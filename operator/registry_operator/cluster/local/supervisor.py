"""Plays the kubelet and the Deployment controller: one `Workload` for each Deployment in the store."""

import asyncio
import logging

from registry_operator.api.kinds import CONFIG_MAP, DEPLOYMENT, SECRET
from registry_operator.cluster.local.state import StateDirectory
from registry_operator.cluster.local.store import ObjectStore
from registry_operator.cluster.local.workload import Workload
from registry_operator.cluster.protocol import Key, Manifest

logger = logging.getLogger(__name__)


class Supervisor:
    """Follows the store from `start` until `stop`."""

    def __init__(self, state: StateDirectory, store: ObjectStore) -> None:
        self._state = state
        self._store = store
        self._workloads: dict[Key, Workload] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Run what the store holds, and follow its changes."""
        self._store.subscribe(self._on_change)
        for deployment in self._store.list(DEPLOYMENT):
            metadata = deployment["metadata"]
            self._run(Key(DEPLOYMENT, metadata["namespace"], metadata["name"]))

    async def stop(self) -> None:
        """Stop all processes, each within its own grace period."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self) -> None:
        """Wait no longer for those that are being stopped."""
        for workload in self._workloads.values():
            workload.kill()

    def holds(self, port: int) -> bool:
        """Whether a process of ours listens on the port, or is about to."""
        return any(workload.holds(port) for workload in self._workloads.values())

    def _on_change(self, key: Key, before: Manifest | None, after: Manifest | None) -> None:
        if key.kind in {SECRET, CONFIG_MAP}:
            for other, workload in self._workloads.items():
                if other.namespace == key.namespace:
                    workload.refresh_volumes()
        elif key.kind != DEPLOYMENT:
            return
        elif after is None:
            self._tasks[key].cancel()
        elif before is None:
            self._run(key)
        elif before["spec"] != after["spec"]:
            self._workloads[key].wake()

    def _run(self, key: Key) -> None:
        predecessor = self._tasks.get(key)
        workload = Workload(key, self._state, self._store, port_owner=lambda port: self._port_owner(key, port))
        self._workloads[key] = workload
        self._tasks[key] = asyncio.create_task(self._live(workload, predecessor), name=f"{key.namespace}/{key.name}")

    async def _live(self, workload: Workload, predecessor: asyncio.Task[None] | None) -> None:
        if predecessor is not None:
            await asyncio.wait({predecessor})
        try:
            await workload.run()
        except Exception:  # a defect in here ends this workload's supervision, never the others'
            logger.exception("%s/%s: its process is no longer supervised", workload.key.namespace, workload.key.name)
        finally:
            if self._workloads.get(workload.key) is workload:
                del self._workloads[workload.key]
                del self._tasks[workload.key]

    def _port_owner(self, key: Key, port: int) -> Key | None:
        """The Deployment of ours, other than `key`, whose process has taken the port."""
        return next(
            (other for other, workload in self._workloads.items() if other != key and workload.holds(port)), None
        )
