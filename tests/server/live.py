"""A real registry server for tests: a process of its own on free ports, that can be killed and started again."""

import itertools
import json
import os
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from registry_server.auth import hash_password
from tests.fixtures import forked, processes
from tests.fixtures.processes import Server, free_port
from tests.server.pki import Authority, Pair

PROGRAM = Path(sys.executable).parent / "registry-server"
STARTED_WITHIN = 120


class LiveRegistry:
    """One registry: its folder, its configuration, and its process while it runs.

    Folders of a `kill -9` and of a new start are the same, as they are for a pod that restarts.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        users: Mapping[str, str],
        authority: Authority | None,
        workers: int,
        environ: Mapping[str, str | Path],
        host: str,
        forked: bool,
    ) -> None:
        self.folder = folder
        self.forked = forked
        self.workers = workers
        self.host, self.port = host, free_port()
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.debug_address = f"127.0.0.1:{free_port()}"
        self.debug_url = f"http://{self.debug_address}"
        self.authority = authority
        self.pair: Pair | None = None if authority is None else authority.issue()
        self.htpasswd = folder / "htpasswd"
        self.environ = dict(environ)
        self.crashes_expected = False
        self._starts = 0
        self._clients: list[httpx.Client] = []
        self._running = ExitStack()
        if users:
            self.write_users(users)
        defaults = self._defaults(logins=bool(users))
        if settings.get("storage", {}).keys() & {"s3", "gcs", "azure"}:
            del defaults["storage"]["filesystem"]
        self._settings = _merge(defaults, settings)
        if filesystem := self._settings["storage"].get("filesystem"):
            self.data = Path(filesystem["rootdirectory"])
            self.root = self.data / "docker/registry/v2"
        self.config = folder / "config.yml"
        self.config.write_text(json.dumps(self._settings))

    @property
    def url(self) -> str:
        return f"{'https' if self.pair else 'http'}://{self.address}"

    @property
    def process(self) -> Server:
        return self._process

    @property
    def log(self) -> Path:
        """What the current process has said: its log and its access log, one after the other."""
        return self.folder / f"log-{self._starts}"

    def write_users(self, users: Mapping[str, str]) -> None:
        """Writes the htpasswd file in place."""
        self.htpasswd.write_text(_htpasswd(users))

    def change_users(self, users: Mapping[str, str]) -> None:
        """Replaces the htpasswd file, and waits until every worker follows the new one."""
        followed = "user(s) now"  # a message of each
        before = self.messages().count(followed)
        new = self.folder / "htpasswd.new"
        new.write_text(_htpasswd(users))
        new.replace(self.htpasswd)
        until(lambda: self.messages().count(followed) == before + self.workers, "all workers know the new users")

    def start(self, *, ready: bool = True) -> Self:
        """Starts the process, and waits until `/readyz` says 200 unless told otherwise."""
        self._starts += 1
        command = ("serve", self.config, "--workers", str(self.workers))
        temporary = self.folder / "tmp"  # a kill leaves what is in it
        temporary.mkdir(exist_ok=True)
        environ = {"TMPDIR": temporary} | self.environ
        server = (
            forked.server(PROGRAM.name, *command, log=self.log, env=environ)
            if self.forked
            else processes.server(PROGRAM, *command, log=self.log, env=environ)
        )
        self._process = self._running.enter_context(server)
        if ready:
            self._await_ready()
        return self

    def stop(self) -> int:
        """Ends the process by SIGTERM; returns its exit code."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait()

    def signal_stop(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and its workers by SIGKILL, at once, as the kernel or a node's failure would."""
        everyone = [self.process.pid, *self.worker_pids()]
        watches = [os.pidfd_open(pid) for pid in everyone]
        os.killpg(self.process.pid, signal.SIGKILL)
        for watch in watches:
            assert select.select([watch], [], [], 10)[0], "the process survived SIGKILL"
            os.close(watch)
        self.process.wait()

    def kill_worker(self, pid: int) -> None:
        """Ends one worker by SIGKILL."""
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([watch], [], [], 10)[0], "the worker survived SIGKILL"
        os.close(watch)

    def worker_pids(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._running.close()

    def check_faultless(self) -> None:
        """No request may have ended in an error nobody foresaw, and no worker by itself."""
        for log in self.folder.glob("log-*"):
            said = log.read_text()
            for fault in ("Traceback", "panicked at"):
                assert fault not in said, said[said.index(fault) :]
            assert self.crashes_expected or "starting another" not in said, said

    def client(self, user: str | None = None, password: str = "", *, http2: bool = False) -> httpx.Client:
        """A client of the API, closed with the registry."""
        auth = None if user is None else (user, password)
        client = httpx.Client(base_url=self.url, auth=auth, http2=http2, verify=self.trust(), timeout=60)
        self._clients.append(client)
        return client

    @cached_property
    def fresh(self) -> httpx.Client:
        """A client that makes a connection for each request, so that they go to all workers; takes whole URLs."""
        limits = httpx.Limits(max_keepalive_connections=0)
        fresh = httpx.Client(verify=self.trust(), timeout=60, limits=limits)
        self._clients.append(fresh)
        return fresh

    def statuses(self, path: str, method: str = "GET", **request: Any) -> set[int]:
        """How a request ends over so many new connections that each worker gets some."""
        return {self.fresh.request(method, f"{self.url}{path}", **request).status_code for _ in range(24)}

    def trust(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context(cafile=self.authority.ca) if self.authority else False

    def connect(self) -> socket.socket:
        """A connection without a client's good manners, without TLS."""
        return socket.create_connection((self.host, self.port), timeout=30)

    def debug(self, path: str) -> httpx.Response:
        return self.fresh.get(f"{self.debug_url}{path}")

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.debug("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def entries(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines of both logs that have these fields."""
        whole = (line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}"))
        lines = (json.loads(line) for line in whole)
        return [line for line in lines if fields.items() <= line.items()]

    def messages(self) -> str:
        """The log alone, as text."""
        return "\n".join(entry["msg"] for entry in self.entries() if "msg" in entry)

    def _await_ready(self) -> None:
        def answers() -> bool:
            self.process.check_alive()
            try:
                return self.debug("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(answers, "the server is ready", within=STARTED_WITHIN)
        until(lambda: len(self.worker_pids()) == self.workers, "all workers are there")

    def _defaults(self, *, logins: bool) -> dict[str, Any]:
        http: dict[str, Any] = {
            "addr": self.address,
            "debug": {"addr": self.debug_address, "prometheus": {"enabled": True}},
        }
        if self.pair:
            http["tls"] = {"certificate": str(self.pair.certificate), "key": str(self.pair.key)}
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"formatter": "json"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "data")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if logins:
            settings["auth"] = {"htpasswd": {"realm": "Tests", "path": str(self.htpasswd)}}
        return settings


@contextmanager
def serving(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    users: Mapping[str, str] | None = None,
    tls: bool = False,
    workers: int = 1,
    environ: Mapping[str, str | Path] | None = None,
    start: bool = True,
    host: str = "127.0.0.1",
    forked: bool = True,
) -> Iterator[LiveRegistry]:
    """A registry that runs as long as the block, unless the block stops it; everything but storage is a default.

    `settings` are merged into the configuration; `users` are logins with their passwords.
    """
    folder.mkdir(parents=True, exist_ok=True)
    registry = LiveRegistry(
        folder,
        settings or {},
        users=users or {},
        authority=Authority(folder) if tls else None,
        workers=workers,
        environ=environ or {},
        host=host,
        forked=forked,
    )
    try:
        yield registry.start() if start else registry
    finally:
        registry.close()
    registry.check_faultless()


@contextmanager
def several(folder: Path) -> Iterator[Callable[..., LiveRegistry]]:
    """While the block runs, what is given starts registries that each have a folder of their own; see `serving`."""
    with ExitStack() as running:
        folders = (folder / f"registry-{number}" for number in itertools.count())
        yield lambda *args, **kwargs: running.enter_context(serving(next(folders), *args, **kwargs))


def until(condition: Callable[[], object], what: str, *, within: float = 30) -> None:
    """Waits until what another process does can be seen."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)


def _htpasswd(users: Mapping[str, str]) -> str:
    """The lines of a file, with hashes that are quick to check."""
    return "".join(f"{user}:{hash_password(word, cost=4)}\n" for user, word in users.items())


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
