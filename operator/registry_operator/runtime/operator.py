"""The operator as a process: from the first request for the Lease to the last line before the exit.

endpoints ─► Lease ─► first LIST ─► queue, kopf's watches, resync ─► SIGTERM ─► queue drains ─► Lease released
"""

import asyncio
import logging
import os
import signal
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import kopf

from registry_operator.api.kinds import REGISTRY
from registry_operator.cluster.kubernetes.api import Api
from registry_operator.cluster.kubernetes.cluster import JOBS_URL, OURS, KubernetesCluster
from registry_operator.cluster.kubernetes.foreign import FOREIGN_KINDS, watch_foreign
from registry_operator.cluster.protocol import Key, Unavailable
from registry_operator.reconcile.registry import reconcile_registry
from registry_operator.runtime import handlers, server
from registry_operator.runtime.elector import LEADING, Candidacy, Elector, LeadershipLost
from registry_operator.runtime.queue import Queue
from registry_operator.runtime.resync import Resync

LEASE_NAME: Final = "regatta-operator"
DRAIN_SECONDS: Final = 15.0
"""For reconciles under way at SIGTERM; with what follows it stays below a pod's usual 30 seconds of grace."""

logger = logging.getLogger(__name__)


class WatchFailed(Exception):
    """kopf gave a watch up, as when the CRD was removed. Nothing would be noticed any more, so the process must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `registry-operator run` can be told."""

    namespaces: tuple[str, ...] = ()
    """Empty: all of the cluster."""
    metrics_host: str = ""
    metrics_port: int = 8080
    leader_election: bool = True
    lease_namespace: str | None = None
    """None: the pod's, or that of the kubeconfig's context."""
    workers: int = 8
    resync_seconds: float = 600.0
    jobs_url: str = JOBS_URL
    """Where servers tell of their jobs."""


async def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises CredentialsError, AddressInUse, WatchFailed."""
    # What runs beside the loop is computation, such as bcrypt: more threads would only take turns away from the loop.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    stop = asyncio.Event()
    _stop_on_signals(stop)
    health = server.Health()
    api = await _connect()
    try:
        endpoints = await server.start(options.metrics_host, options.metrics_port, health)
        try:
            await _lead(api, options, health, stop)
        finally:
            await endpoints.cleanup()
    finally:
        await api.close()
    logger.info("stopped")


async def _lead(api: Api, options: Options, health: server.Health, stop: asyncio.Event) -> None:
    """Wait for the Lease, reconcile until told to stop, give the Lease back."""
    if not options.leader_election:
        LEADING.set(1)
        return await _reconcile(api, options, health, stop)

    def standing_by() -> None:
        health.phase = server.Phase.STANDBY

    def elector(own: Api) -> Elector:
        return Elector(
            own,
            namespace=options.lease_namespace or own.default_namespace,
            name=LEASE_NAME,
            identity=f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
            standing_by=standing_by,
        )

    async with Candidacy(_connect, elector, lost=_end_at_once) as candidacy:
        winning = asyncio.create_task(candidacy.won())
        try:
            await _until(stop, winning)
            if not stop.is_set():
                await _reconcile(api, options, health, stop)
        finally:
            await _cancel(winning)


async def _connect() -> Api:
    return await Api.connect(user_agent=f"regatta-operator/{version('regatta')}")


def _end_at_once(error: Exception) -> None:
    """With nothing finished or cleaned up: from now on any write could cross one of the new leader."""
    logger.critical("%s", error, exc_info=None if isinstance(error, LeadershipLost) else error)
    logging.shutdown()
    os._exit(1)


async def _reconcile(api: Api, options: Options, health: server.Health, stop: asyncio.Event) -> None:
    health.phase = server.Phase.SYNCING
    cluster = KubernetesCluster(api, namespaces=options.namespaces, jobs_url=options.jobs_url)

    async def work(key: Key) -> float | None:
        with cluster.reconciling(key):
            outcome = await reconcile_registry(cluster, key, clock=lambda: datetime.now(UTC))
        return outcome.requeue_after

    queue = Queue(work, workers=options.workers, transient=(Unavailable,))
    resync = Resync(cluster, wake=queue.add, interval=options.resync_seconds)
    tasks = [asyncio.create_task(resync.first())]
    try:
        await _until(stop, *tasks)
        if stop.is_set():
            return
        logger.info(
            "%s Registries in %s", cluster.cache.count(REGISTRY), ", ".join(options.namespaces) or "all namespaces"
        )
        health.phase = server.Phase.RUNNING
        queue.start()
        tasks = [asyncio.create_task(resync.run()), *_foreign_watches(cluster, queue)]
        # Last: in the end kopf cancels every task that was started after its own.
        tasks.append(asyncio.create_task(_watch(cluster, queue, resync, stop)))
        await _until(stop, *tasks)
    finally:
        health.phase = server.Phase.STOPPING
        await queue.stop(grace=DRAIN_SECONDS)
        await _cancel(*tasks)


def _foreign_watches(cluster: KubernetesCluster, queue: Queue[Key]) -> list[asyncio.Task[None]]:
    selector = ",".join(f"{name}!={value}" for name, value in OURS.items())
    return [
        asyncio.create_task(
            watch_foreign(
                cluster.api, kind, namespace, selector=selector, references=cluster.references, wake=queue.add
            )
        )
        for kind in FOREIGN_KINDS
        for namespace in cluster.namespaces
    ]


async def _watch(cluster: KubernetesCluster, queue: Queue[Key], resync: Resync, stop: asyncio.Event) -> None:
    """Run kopf until told to stop. Raises WatchFailed."""
    before = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=handlers.handlers(cluster, wake=queue.add, relisted=resync.request),
        settings=handlers.settings(),
        standalone=True,
        clusterwide=cluster.namespaces == (None,),
        namespaces=[namespace for namespace in cluster.namespaces if namespace is not None],
        stop_flag=stop,
    )
    # kopf has just taken the signals for itself; it would stop watching before the queue has drained.
    _stop_on_signals(stop)
    try:
        await kopf.run_tasks(tasks, ignored=before)
    except Exception as error:
        raise WatchFailed(f"a watch failed for good, a restart may help: {error}") from error


async def _until(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Return when told to stop or when one of the tasks has ended; raise what it raised."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in done - {stopping}:
        await task


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
