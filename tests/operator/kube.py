"""What the operator's tests share: a client of the API server, a wire that can be cut, and the operator's process."""

import asyncio
import base64
import json
import os
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock
from urllib.parse import urlsplit

import httpx
import pytest

from registry_operator.api import crd
from registry_operator.api.kinds import CHILDREN, REGISTRY, REGISTRY_BACKUP, Kind
from registry_operator.api.names import REGISTRY_LABEL
from registry_operator.cluster.kubernetes.api import Api, path
from tests.fixtures import forked
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import Server, free_port

Json = dict[str, Any]
T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a condition that has not come true fails the test."""
WRITES = {"APPLY", "PATCH", "POST", "PUT", "DELETE", "DELETECOLLECTION"}


def eventually(probe: Callable[[], T], *, within: float = PATIENCE) -> T:
    """The first true result of `probe`, which asks a process that tells us nothing by itself."""
    deadline = time.monotonic() + within
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s; last seen: {result!r}")
        time.sleep(0.05)
    return result


def install_crds(api: KubeAPI) -> None:
    """Puts our CRDs in force as they are, whatever another test has made of them."""
    text = "---\n".join(crd.documents().values())
    api.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=text)


class Kube:
    """The API server as its administrator sees it, with the CRDs in force."""

    def __init__(self, api: KubeAPI) -> None:
        self.api = api
        config = json.loads(api.kubeconfig.read_text())
        token = config["users"][0]["user"]["token"]
        self.http = httpx.Client(
            base_url=api.server,
            verify=ssl.create_default_context(cafile=api.ca),
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )
        self._loop = asyncio.Runner()
        with mock.patch.dict(os.environ, {"KUBECONFIG": str(api.kubeconfig)}):
            self._api = self._loop.run(Api.connect(user_agent="regatta-test/1"))
        install_crds(api)
        # `kubectl wait` fails on a CRD so new that it has no conditions.
        eventually(lambda: all(self.http.get(path(kind, None)).is_success for kind in (REGISTRY, REGISTRY_BACKUP)))

    def close(self) -> None:
        """Ends all connections."""
        self.http.close()
        self._loop.run(self._api.close())
        self._loop.close()

    def run(self, work: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        """What the operator's code makes of the API server, by its own client."""
        return self._loop.run(work(self._api))

    def create(self, kind: Kind, namespace: str, name: str, **rest: Any) -> Json:
        """Creates an object and returns it."""
        manifest = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}, **rest}
        return self._answer(self.http.post(path(kind, namespace), json=manifest))

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object, or None."""
        response = self.http.get(path(kind, namespace, name))
        return None if response.status_code == 404 else self._answer(response)

    def all(self, kind: Kind, namespace: str | None = None, **labels: str) -> list[Json]:
        """The objects of a kind that carry these labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        items = self._answer(self.http.get(path(kind, namespace), params={"labelSelector": selector}))["items"]
        return list(items)

    def merge(self, kind: Kind, namespace: str, name: str, change: Json, subresource: str | None = None) -> Json:
        """Changes an object as some other client would."""
        return self._answer(
            self.http.patch(
                path(kind, namespace, name, subresource),
                content=json.dumps(change),
                headers={"Content-Type": "application/merge-patch+json"},
            )
        )

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Deletes an object."""
        self._answer(self.http.delete(path(kind, namespace, name)))

    def children(self, namespace: str | None = None) -> dict[tuple[str, str, str], Json]:
        """All objects with our label."""
        return {
            (kind.name, item["metadata"]["namespace"], item["metadata"]["name"]): item
            for kind in CHILDREN
            for item in self.all(kind, namespace, **{"app.kubernetes.io/managed-by": "regatta"})
        }

    def versions(self, namespace: str | None = None) -> dict[tuple[str, str, str], str]:
        """The resourceVersions of all Registries and children: any write that changes one shows."""
        registries = {
            ("Registry", item["metadata"]["namespace"], item["metadata"]["name"]): item
            for item in self.all(REGISTRY, namespace)
        }
        return {
            key: item["metadata"]["resourceVersion"] for key, item in (registries | self.children(namespace)).items()
        }

    def writes(self) -> int:
        """Write requests that the API server has seen for Registries, children and Events, even without effect."""
        resources = {kind.plural for kind in (REGISTRY, *CHILDREN)} | {"events"}
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith("apiserver_request_total{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                if labels["resource"] in resources and labels["verb"] in WRITES:
                    total += float(line.rpartition(" ")[2])
        return int(total)

    def children_of(self, namespace: str, registry: str) -> list[str]:
        """The children of a Registry as `Kind/name`, sorted."""
        return sorted(
            f"{kind}/{name}"
            for (kind, _, name), item in self.children(namespace).items()
            if item["metadata"]["labels"][REGISTRY_LABEL] == registry
        )

    def condition(self, namespace: str, registry: str, type_: str) -> Json:
        """A condition of a Registry; empty if it has none of this type."""
        live = self.get(REGISTRY, namespace, registry) or {}
        conditions = live.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type_), {})

    @staticmethod
    def _answer(response: httpx.Response) -> Json:
        if response.is_error:
            pytest.fail(f"{response.request.method} {response.request.url}: {response.text}")
        return dict(response.json())


class Wire:
    """A TCP connection to the API server that can be cut: while it is, connections break and new ones are refused."""

    def __init__(self, api: KubeAPI) -> None:
        target = urlsplit(api.server)
        self._target = (target.hostname, target.port)
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.mend()

    def kubeconfig(self, api: KubeAPI, directory: Path) -> Path:
        """A kubeconfig that leads through the wire."""
        config = json.loads(api.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        through = directory / "kubeconfig-through-wire.yaml"
        through.touch(mode=0o600)
        through.write_text(json.dumps(config))
        return through

    def cut(self) -> None:
        """Break what is connected and refuse what comes."""
        self._call(self._cut())

    def mend(self) -> None:
        """Let connections through again."""
        self._call(self._mend())

    def close(self) -> None:
        """Cut for good."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _mend(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            far, upstream = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, upstream))
                group.create_task(_pump(far, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()
            self._open.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    raise ConnectionResetError


class Operator:
    """`registry-operator run` as a process."""

    def __init__(self, process: Server, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, where: str) -> httpx.Response | None:
        """An answer of its endpoints; None if it does not listen (yet)."""
        self.process.check_alive()
        try:
            return httpx.get(self.url + where, trust_env=False)
        except httpx.TransportError:
            return None

    def await_running(self) -> None:
        """Wait until it leads and has read what exists."""
        eventually(lambda: (answer := self.get("/readyz")) and answer.text.startswith("leading: reconciling"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        answer = self.get("/metrics")
        assert answer is not None
        total = 0.0
        for line in answer.text.splitlines():
            if re.match(rf"{name}[ {{]", line):
                found = dict(re.findall(r'(\w+)="([^"]*)"', line))
                if labels.items() <= found.items():
                    total += float(line.rpartition(" ")[2])
        return total

    def await_idle(self) -> None:
        """Wait until its queue is empty and it has finished nothing for a second."""

        def reconciles() -> float:
            return self.metric("regatta_operator_reconciles_total") + self.metric("regatta_operator_queue_depth")

        def settled() -> bool:
            before = reconciles()
            time.sleep(1.0)
            return reconciles() == before and self.metric("regatta_operator_queue_depth") == 0

        eventually(settled)

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.process.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def ended(self) -> str | None:
        """How it ended, or None while it runs."""
        try:
            self.process.check_alive()
        except RuntimeError as end:
            return str(end).partition("\n")[0]
        return None


_runs = 0


@contextmanager
def operator(kubeconfig: Path, directory: Path, *args: str) -> Iterator[Operator]:
    """Runs the operator while the block does; ends it with SIGTERM."""
    global _runs  # noqa: PLW0603 - a number for the log's name
    _runs += 1
    port, log = free_port(), directory / f"operator-{_runs}.log"
    command = ("registry-operator", "run", f"--metrics-addr=127.0.0.1:{port}", *args)
    with forked.server(*command, log=log, env={"KUBECONFIG": kubeconfig}) as process:
        yield Operator(process, port)


def opaque(**data: str | bytes) -> Json:
    """The fields of a Secret with this content."""
    encoded = {
        key.replace("_", "."): base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
        for key, value in data.items()
    }
    return {"type": "Opaque", "data": encoded}
