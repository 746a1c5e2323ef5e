"""The process of one Deployment through its life: prepare, start up, serve, stop, and again until the Deployment goes.

    prepare ─► start up ─► serve ─┬─► stop (the pod template changed) ─► prepare
       ▲                          └─► failed (ended, or its probes say so) ─► wait, growing ─┐
       └──────────────────────────────────────────────────────────────────────────────────────┘

There is one process whatever `replicas` says (none for 0), and a rollout is always Recreate: two could not share the
port.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from registry_operator.api.kinds import CONFIG_MAP, SECRET
from registry_operator.cluster.local.log import last_line
from registry_operator.cluster.local.ports import refusal
from registry_operator.cluster.local.probe import Probe, Prober, Unsupported
from registry_operator.cluster.local.process import Process
from registry_operator.cluster.local.state import StateDirectory
from registry_operator.cluster.local.store import ObjectStore, decoded_data
from registry_operator.cluster.local.volumes import CannotMount, Volumes
from registry_operator.cluster.protocol import Key, Manifest

logger = logging.getLogger(__name__)

_RETRY: Final = 1.0
"""Seconds until a look whether what kept a process from starting has gone."""
_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 30.0
_HEALTHY: Final = 60.0
"""Seconds of life after which an end counts as the first again."""
_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "TZ")
"""Of our environment, what a process gets to see. REGISTRY_* of a shell must not reconfigure it."""


class CannotStart(Exception):
    """Something outside of the process keeps it from starting. It is tried again."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Failed(Exception):
    """The process ended by itself, or its probes say that it does not work."""


@dataclass(slots=True)
class Status:
    """A Deployment's status as this engine tells it."""

    generation: int
    available: bool = False
    progressing: bool = True
    reason: str = "Starting"
    message: str = "the process is starting"
    pid: int | None = None
    restarts: int = 0
    failure: bool = False
    """Whether something keeps the process from starting or running, rather than just taking its time."""


@dataclass(slots=True)
class Workload:
    """Runs the process of a Deployment. `run` is its life; cancelling it stops the process within its grace period."""

    key: Key
    state: StateDirectory
    store: ObjectStore
    port_owner: Callable[[int], Key | None]
    """Which other Deployment of ours listens on a port."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _process: Process | None = None
    _held: frozenset[int] = frozenset()
    _restarts: int = 0
    _generation: int = 0
    """Of the Deployment whose template runs."""

    @property
    def template(self) -> Manifest:
        """The pod template to run."""
        template: Manifest = self._deployment()["spec"]["template"]
        return template

    def holds(self, port: int) -> bool:
        """Whether its process listens there, or is about to."""
        return port in self._held

    def wake(self) -> None:
        """Have it look at its Deployment again."""
        self._changed.set()

    def refresh_volumes(self) -> None:
        """Bring the files of a running process up to date; have a waiting one try again."""
        if self._process is not None:
            self._volumes.refresh(str(self.key.namespace), self.template["spec"])
        self._changed.set()

    def kill(self) -> None:
        """Stop waiting for a graceful end."""
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        """Keep the process running for as long as the Deployment is there."""
        backoff, started = _FIRST_BACKOFF, time.monotonic()
        while True:
            self._changed.clear()
            try:
                started = time.monotonic()
                await self._run_once()
            except CannotStart as obstacle:
                self._report(reason=obstacle.reason, message=str(obstacle), failure=True)
                await self._changed_within(_RETRY)
            except Failed as failure:
                backoff = _FIRST_BACKOFF if time.monotonic() - started > _HEALTHY else backoff
                self._restarts += 1
                self._report(
                    reason="CrashLoopBackOff", message=f"{failure}; next start in {backoff:.0f} s", failure=True
                )
                await self._changed_within(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
            else:
                backoff = _FIRST_BACKOFF

    async def _run_once(self) -> None:
        """One process from start to stop. Raises CannotStart, Failed; returns when there is another to run."""
        template = self.template
        self._generation = self._deployment()["metadata"]["generation"]
        if self._deployment()["spec"].get("replicas", 1) == 0:
            self._report(reason="ScaledToZero", message="spec.replicas is 0", progressing=False)
            await self._changed.wait()
            return
        probes = self._probes(template["spec"])
        try:
            self._process = await self._start(template["spec"])
            self._report(pid=self._process.pid)
            if await self._start_up(probes, template):
                await self._serve(probes, template)
        finally:
            if self._process is not None:
                if not self._process.has_ended:
                    self._report(reason="Stopping", message="the process is being stopped")
                grace = template["spec"].get("terminationGracePeriodSeconds", 30)
                await _finish(self._process.stop(grace=grace))
            self._process = None
            self._held = frozenset()

    # --- prepare

    async def _start(self, pod: Manifest) -> Process:
        namespace, container = str(self.key.namespace), pod["containers"][0]
        scratch = self.state.scratch(namespace, self.key.name)
        try:
            self._volumes.mount(namespace, pod, scratch=scratch)
        except CannotMount as obstacle:
            raise CannotStart("CannotMount", str(obstacle)) from None
        ports = [port["containerPort"] for port in container.get("ports", ())]
        for port in ports:
            self._check_free(port)
        environment = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": str(scratch),
            **dict(self._environment(container)),
        }
        command = [*container.get("command", ()), *container.get("args", ())]
        if not command or shutil.which(command[0], path=environment["PATH"]) is None:
            raise CannotStart("NoCommand", f"cannot find the command {' '.join(command[:1]) or '(none given)'}")
        self._held = frozenset(ports)
        cwd = Path(container.get("workingDir", scratch))
        return await Process.start(command, environment=environment, cwd=cwd, log=self._log)

    def _environment(self, container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for variable in container.get("env", ()):
            if "valueFrom" not in variable:
                yield variable["name"], variable.get("value", "")
                continue
            source = variable["valueFrom"]
            if "fieldRef" in source:
                fields = {"metadata.name": self.key.name, "metadata.namespace": str(self.key.namespace)}
                if (path := source["fieldRef"]["fieldPath"]) in fields:
                    yield variable["name"], fields[path]
                continue
            kind, selector = (
                (SECRET, source.get("secretKeyRef"))
                if "secretKeyRef" in source
                else (
                    CONFIG_MAP,
                    source["configMapKeyRef"],
                )
            )
            data = decoded_data(self.store.get(Key(kind, self.key.namespace, selector["name"])))
            if selector["key"] in data:
                yield variable["name"], data[selector["key"]].decode()
            elif not selector.get("optional"):
                raise CannotStart("NoConfig", f'{kind.name.lower()} "{selector["name"]}" has no key {selector["key"]}')

    def _check_free(self, port: int) -> None:
        other = self.port_owner(port)
        if other is not None:
            raise CannotStart(
                "PortInUse",
                f"port {port} is already used by {other.namespace}/{other.name}: give one of the two another port "
                f"(spec.service.port)",
            )
        if (why := refusal(port)) is not None:
            raise CannotStart(
                "PortInUse",
                f"port {port} of 127.0.0.1 can't be used ({why}): stop what listens there, or choose another port with "
                f"spec.service.port or `local up --port`",
            )

    # --- start up, serve

    def _probes(self, pod: Manifest) -> dict[str, Prober]:
        container = pod["containers"][0]
        try:
            probes = {name: Probe.of(container, f"{name}Probe") for name in ("startup", "readiness", "liveness")}
        except Unsupported as obstacle:
            raise CannotStart("UnsupportedProbe", str(obstacle)) from None
        return {name: Prober(probe) for name, probe in probes.items() if probe is not None}

    async def _start_up(self, probes: dict[str, Prober], template: Manifest) -> bool:
        """Until the startup probe has passed once; no other is asked before. False when the template changed first."""
        startup = probes.pop("startup", None)
        while startup is not None and not startup.passed:
            if await self._until(startup.due, template):
                return False
            await startup.ask()
            if startup.failed:
                raise Failed(f"the process did not start: {startup.last_failure}")
        return True

    async def _serve(self, probes: dict[str, Prober], template: Manifest) -> None:
        """Until the template changes: readiness says whether it is available, liveness whether it lives on."""
        now = time.monotonic()
        for prober in probes.values():
            prober.due = now
        readiness, liveness = probes.get("readiness"), probes.get("liveness")
        while True:
            self._report_serving(readiness)
            due = min((prober.due for prober in probes.values()), default=time.monotonic() + 3600)
            if await self._until(due, template):
                return
            for prober in probes.values():
                if prober.due <= time.monotonic():
                    await prober.ask()
            if liveness is not None and liveness.failed:
                raise Failed(f"the process stopped answering: {liveness.last_failure}")

    async def _until(self, due: float, template: Manifest) -> bool:
        """Wait until `due`; True as soon as there is another template to run. Raises Failed if the process ends."""
        assert self._process is not None  # noqa: S101, called while it runs
        ended = asyncio.ensure_future(self._process.ended())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            timeout = max(0.0, due - time.monotonic())
            await asyncio.wait({ended, changed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise Failed(self._epitaph(ended.result()))
        finally:
            ended.cancel()
            changed.cancel()
        if not self._changed.is_set():
            return False
        self._changed.clear()
        if self.template != template or self._deployment()["spec"].get("replicas", 1) == 0:
            return True
        self._generation = self._deployment()["metadata"]["generation"]
        return False

    async def _changed_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    # --- tell

    def _epitaph(self, code: int) -> str:
        how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        said = last_line(self._log)
        return f"the process ended {how}" + (f": {said}" if said else "")

    def _report_serving(self, readiness: Prober | None) -> None:
        assert self._process is not None  # noqa: S101, called while it runs
        if readiness is None or readiness.passed:
            self._report(
                available=True,
                progressing=False,
                reason="Available",
                message="the process serves",
                pid=self._process.pid,
            )
        elif readiness.failed:
            self._report(reason="NotReady", message=readiness.last_failure, pid=self._process.pid, failure=True)
        else:
            self._report(pid=self._process.pid)

    def _report(self, **changes: Any) -> None:
        deployment = self.store.get(self.key)
        if deployment is None:
            return
        status = Status(generation=self._generation, restarts=self._restarts, **changes)
        try:
            self.store.patch_status(self.key, _as_kubernetes(status, deployment.get("status", {})))
        except OSError as error:
            logger.warning("%s/%s: its state can't be written: %s", self.key.namespace, self.key.name, error)

    def _deployment(self) -> Manifest:
        """The Deployment; this task is cancelled when it goes."""
        deployment = self.store.get(self.key)
        if deployment is None:
            raise asyncio.CancelledError
        return deployment

    @property
    def _volumes(self) -> Volumes:
        return Volumes(self.state, self.store)

    @property
    def _log(self) -> Path:
        return self.state.log(str(self.key.namespace), self.key.name)


async def _finish(stopping: Any) -> None:
    """Await to the end even if we are cancelled meanwhile: no process may be left behind."""
    task = asyncio.ensure_future(stopping)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _as_kubernetes(status: Status, before: Mapping[str, Any]) -> dict[str, Any]:
    """The status in the words of apps/v1. Times change only with what they are about."""
    ready = 1 if status.available else 0
    about = {"reason": status.reason, "message": status.message}
    conditions = [
        _condition("Available", before, holds=status.available, **about),
        _condition("Progressing", before, holds=not status.failure, **about),
        *([_condition("ReplicaFailure", before, holds=True, **about)] if status.failure else ()),
    ]
    return {
        "observedGeneration": status.generation,
        "replicas": 1,
        "updatedReplicas": 1,
        **({"readyReplicas": 1, "availableReplicas": 1} if ready else {"unavailableReplicas": 1}),
        "conditions": conditions,
        "process": {"pid": status.pid, "restarts": status.restarts},
    }


def _condition(kind: str, before: Mapping[str, Any], *, holds: bool, reason: str, message: str) -> dict[str, Any]:
    value = "True" if holds else "False"
    past = next((known for known in before.get("conditions", ()) if known["type"] == kind), None)
    since = past["lastTransitionTime"] if past and past["status"] == value else _now()
    return {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": since}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
