"""`local up`: the operator's loop over a local cluster, from the first look at the manifests to the last process's end.

startup ─► main loop ─► shutdown
   │          ├─ files change ─► admitted ─► stored ─► queue ─► reconcile
   │          └─ a Registry turns ready ─► proven ─► announced
   └─ what is invalid now ends it; later it only leaves things as they are
"""

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from registry_operator.api.kinds import DEPLOYMENT, REGISTRY
from registry_operator.api.names import child_name
from registry_operator.cli.local.console import Voice
from registry_operator.cli.local.handout import Handout
from registry_operator.cli.local.proof import NotProven, prove
from registry_operator.cluster.local import Event, LocalCluster, StateDirectory
from registry_operator.cluster.local.manifests import Admission, ManifestFiles, Reading
from registry_operator.cluster.local.store import key_of
from registry_operator.cluster.protocol import Key, Manifest, Unavailable
from registry_operator.reconcile.registry import reconcile_registry
from registry_operator.runtime.queue import Queue

POLL: Final = 0.5
"""Seconds between looks at the manifest files."""
WORKERS: Final = 4
"""Reconciles at the same time."""
DRAIN: Final = 5.0
"""Seconds for reconciles under way when we stop."""

_MEANINGLESS: Final = (
    *(("replicas",), ("image",), ("resources",), ("scheduling",), ("service", "type"), ("service", "nodePort")),
    *(("service", "annotations"), ("storage", "filesystem", "storageClassName")),
)
"""Of a Registry's spec: what has no effect on a single machine."""


class InvalidInput(Exception):
    """The manifests can't be used. `problems` say why, one by one."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `local up` can be told."""

    paths: tuple[Path, ...]
    state: StateDirectory
    port: int | None = None
    prove: bool = False


class Up:
    """One run of `local up`. The state directory is locked meanwhile."""

    def __init__(self, options: Options, voice: Voice) -> None:
        self._options = options
        self._voice = voice
        self._cluster = LocalCluster(options.state, on_event=self._tell_event)
        self._files = ManifestFiles(options.paths)
        self._admission = Admission(self._cluster.store, self._files, first_port=options.port)
        self._queue: Queue[Key] = Queue(self._reconcile, workers=WORKERS, transient=(Unavailable,))
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._problems: list[str] = []
        self._notes: dict[Key, str] = {}
        self._ready: set[Key] = set()
        self._announced: dict[Key, list[tuple[str, str]]] = {}

    async def run(self) -> int:
        """Run until SIGINT or SIGTERM; returns the exit code. Raises InvalidInput."""
        self._handle_signals()
        self._startup()
        try:
            async with asyncio.TaskGroup() as tasks:
                announcing = tasks.create_task(self._announce())
                await self._main_loop()
                announcing.cancel()
        finally:
            await self._shutdown()
        everything = {key_of(registry) for registry in self._cluster.store.list(REGISTRY)}
        return 0 if everything <= self._announced.keys() else 1

    def _startup(self) -> None:
        self._files.changed()
        reading = self._files.read()
        self._cluster.store.load(wanted=lambda manifest: self._admission.is_ours(manifest, reading))
        admitted, problems = self._admission.admit(reading)
        if not problems and not any(key_of(manifest).kind == REGISTRY for manifest in admitted):
            problems.append(f"there is no Registry in {', '.join(map(str, self._options.paths))}")
        if problems:
            raise InvalidInput(problems)
        self._note(admitted, reading)
        self._admission.store(admitted, reading)
        self._cluster.store.subscribe(lambda *_: self._news.set())
        self._cluster.start(self._queue.add)
        self._queue.start()
        self._news.set()

    async def _main_loop(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._stopping.wait()
            if self._files.changed():
                self._reload()

    async def _shutdown(self) -> None:
        self._voice.wait_for({})
        self._voice.say("stopping")
        await self._queue.stop(grace=DRAIN)
        await self._cluster.stop()
        self._voice.say(f"stopped; everything is kept in {self._options.state.root}")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        """The first asks for an orderly end, the second ends it at once."""
        if self._stopping.is_set():
            self._cluster.kill()
        self._stopping.set()

    # --- manifests

    def _reload(self) -> None:
        """Put changed files into effect. What is wrong in them is said once, and leaves its object as it was."""
        reading = self._files.read()
        admitted, problems = self._admission.admit(reading)
        if problems and problems != self._problems:
            self._voice.warn(["not applied:", *problems])
        self._problems = problems
        self._note(admitted, reading)
        for key in self._admission.store(admitted, reading):
            kept = f"; its content stays in {self._options.state.root / 'data'}" if key.kind == REGISTRY else ""
            self._voice.say(f"{_name(key)}: {key.kind.name} deleted{kept}")

    def _note(self, admitted: list[Manifest], reading: Reading) -> None:
        """Say once what has no effect here."""
        for line in reading.ignored:
            if line not in self._notes.values():
                self._voice.say(f"note: {line}")
                self._notes[Key(REGISTRY, None, line)] = line
        given = {key_of(document.manifest): document.manifest for document in reading.documents}
        for manifest in admitted:
            key = key_of(manifest)
            fields = ", ".join(_meaningless(given.get(key, manifest))) if key.kind == REGISTRY else ""
            if fields and self._notes.get(key) != fields:
                self._voice.say(f"note: {_name(key)}: no effect in local mode: {fields}")
            self._notes[key] = fields

    # --- Registries

    async def _reconcile(self, key: Key) -> float | None:
        outcome = await reconcile_registry(self._cluster, key, clock=lambda: datetime.now(UTC))
        self._news.set()
        return outcome.requeue_after

    def _tell_event(self, event: Event) -> None:
        self._voice.tell(_name(event.regarding), event.message, style="red" if event.kind == "Warning" else None)

    async def _announce(self) -> None:
        """Follow the Registries: say what they wait for, and once they are ready how to use them."""
        while True:
            await self._news.wait()
            self._news.clear()
            waiting = {}
            for registry in self._cluster.store.list(REGISTRY):
                key = key_of(registry)
                if not self._is_ready(registry):
                    self._ready.discard(key)
                    waiting[_name(key)] = _condition(registry, "Ready").get("message", "being set up")
                elif key not in self._ready:
                    self._ready.add(key)
                    await self._announce_ready(registry)
                else:
                    self._handout(registry).write()
            self._voice.wait_for(waiting)

    async def _announce_ready(self, registry: Manifest) -> None:
        key, handout = key_of(registry), self._handout(registry)
        handout.write()
        if self._options.prove and key not in self._announced and not await self._proven(_name(key), handout):
            return
        self._voice.wait_for({})
        self._voice.say(f"ready: {handout.url}", style="bold green")
        lines = list(handout.lines())
        if self._announced.get(key) != lines:
            self._voice.say("", *(f"  {heading:<12} {line}" for heading, line in lines), "")
        self._announced[key] = lines

    async def _proven(self, name: str, handout: Handout) -> bool:
        if handout.access is None:
            self._voice.tell(name, "not proven by a push: its users are your own")
            return True
        self._voice.wait_for({name: "pushing and pulling an image"})
        try:
            await asyncio.to_thread(prove, handout.access)
        except NotProven as failure:
            self._voice.warn([f"{name}: not ready: {failure}; see `registry-operator local logs {name}`"])
            return False
        self._voice.tell(name, f"an image was pushed and pulled over {handout.url}, and no stranger let in")
        return True

    def _handout(self, registry: Manifest) -> Handout:
        return Handout.of(registry, self._cluster.store, self._options.state)

    def _is_ready(self, registry: Manifest) -> bool:
        """Whether it serves now. The condition alone may be from before a restart of ours."""
        key, condition = key_of(registry), _condition(registry, "Ready")
        deployment = self._cluster.store.get(Key(DEPLOYMENT, key.namespace, child_name(key.name)))
        if deployment is None or not _is_current(registry, condition):
            return False
        status = deployment.get("status", {})
        return (
            status.get("availableReplicas", 0) > 0 and _is_current(deployment, status) and condition["status"] == "True"
        )


def _is_current(manifest: Manifest, said: Manifest) -> bool:
    """Whether something was said of the manifest as it is now."""
    return bool(said.get("observedGeneration") == manifest["metadata"]["generation"])


def _name(key: Key) -> str:
    """As people call it: without the namespace where that says nothing."""
    return key.name if key.namespace == "default" else f"{key.namespace}/{key.name}"


def _condition(registry: Manifest, kind: str) -> Manifest:
    conditions: list[Manifest] = registry.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _meaningless(registry: Manifest) -> Iterator[str]:
    """The fields that someone has set and that mean nothing on a single machine."""
    for path in _MEANINGLESS:
        value = registry.get("spec") or {}
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value not in (None, 1, "ClusterIP"):
            yield ".".join(("spec", *path))
