"""`registry-operator local up` as a real process, and what it has started."""

import contextlib
import json
import os
import queue
import re
import select
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.fixtures import forked


class Ended(Exception):
    """The output ended before the line that was waited for."""


class Up:
    """A running `local up`. What it prints is kept in `lines`."""

    def __init__(self, *arguments: object, state: Path, output: Path) -> None:
        os.mkfifo(output)
        self.state = state
        self.lines: list[str] = []
        self._output = output
        self._process = forked.Forked("registry-operator", "local", "up", *arguments, "--state", state, output=output)
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, pattern: str, timeout: float = 60) -> str:
        """Waits for the next line that matches, and returns it. Lines are looked at once."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no line {pattern!r} in:\n" + "\n".join(self.lines)) from None
            if line is None:
                raise Ended(f"no line {pattern!r} in:\n" + "\n".join(self.lines))
            if re.search(pattern, line):
                return line

    def wait(self, timeout: float = 60) -> int:
        """Waits for the end; returns the exit code."""
        return self._process.wait(timeout)

    def stop(self, sig: signal.Signals = signal.SIGINT) -> int:
        """Sends the signal and waits for the end; returns the exit code."""
        os.kill(self.pid, sig)
        return self.wait()

    def close(self) -> None:
        """Ends it if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
        self._reader.join()

    def registry(self, name: str = "team") -> dict[str, Any]:
        """What `local status --format json` says of a Registry."""
        found = json.loads(local("status", "--format", "json", "--state", self.state).stdout)
        return next(registry for registry in found if registry["name"] == name)

    def client(self, name: str = "team", *, login: tuple[str, str] | None = None) -> httpx.Client:
        """A client that trusts the Registry's CA, with this login or none."""
        trust = ssl.create_default_context(cafile=self.handout(name) / "ca.crt")
        address = self.registry(name)["address"]
        return httpx.Client(base_url=f"https://{address}", verify=trust, auth=login, trust_env=False)

    def handout(self, name: str = "team") -> Path:
        """The directory with `ca.crt` and `password`."""
        return self.state / "registries" / "default" / name / "client"

    def admin(self, name: str = "team") -> tuple[str, str]:
        """The generated login."""
        return "admin", (self.handout(name) / "password").read_text()

    def _read(self) -> None:
        with self._output.open() as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                self._queue.put(self.lines[-1])
        self._queue.put(None)


@contextmanager
def up(*paths: Path, state: Path, args: tuple[str, ...] = ()) -> Iterator[Up]:
    """Runs `local up` while the block does."""
    with tempfile.TemporaryDirectory() as folder:
        running = Up(*paths, *args, state=state, output=Path(folder, "output"))
        try:
            yield running
        finally:
            running.close()


def local(*args: object) -> "subprocess.CompletedProcess[str]":
    """Runs a `registry-operator local` command to its end."""
    return forked.run("registry-operator", "local", *args)


def registry(name: str = "team", *, port: int, **spec: Any) -> dict[str, Any]:
    """A Registry's manifest."""
    spec.setdefault("service", {"port": port})
    return {"apiVersion": "regatta.dev/v1alpha1", "kind": "Registry", "metadata": {"name": name}, "spec": spec}


def write(path: Path, *manifests: Mapping[str, Any]) -> Path:
    """Writes a manifest file as an editor does: in one step."""
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(yaml.safe_dump_all([dict(manifest) for manifest in manifests]))
    return scratch.replace(path)


def session(pid: int) -> list[int]:
    """The processes of the session that `pid` leads: a registry's server and its workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def await_end(pids: list[int], timeout: float = 30) -> None:
    """Waits for the end of processes that are not our children."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"process {pid} is still there")
        finally:
            os.close(handle)


def await_true(condition: Callable[[], bool], timeout: float = 30) -> None:
    """Asks until it is so: for what another process does and tells nobody."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("still not so")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether anything listens on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
