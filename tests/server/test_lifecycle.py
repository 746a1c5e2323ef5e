"""A server's life: how it starts, survives its workers, and ends without failing anyone."""

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.http2 import GoneAway, HTTP2Connection
from tests.server.live import LiveRegistry, until


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_server_ends_at_once(self, serve: Serve, number: signal.Signals) -> None:
        """Connections that are kept open without a request do not hold it up."""
        registry = serve(workers=2)
        clients = [registry.client() for _ in range(4)]
        for client in clients:
            assert client.get("/v2/").status_code == 200
        began = time.monotonic()
        os.kill(registry.process.pid, number)
        assert registry.process.wait() == 0
        assert time.monotonic() - began < _DRAIN / 2
        registry.start()  # on the same ports
        for client in clients:
            assert client.get("/v2/").status_code == 200

    def test_ctrl_c_reaches_all_processes_and_the_first_decides(self, serve: Serve) -> None:
        registry = serve(workers=2)
        location, connection = _begin_upload(registry, b"123")
        os.killpg(registry.process.pid, signal.SIGINT)
        until(lambda: "stopping" in registry.messages(), "the server is stopping")
        assert _finish(connection, b"456").startswith(b"HTTP/1.1 202")
        assert registry.process.wait() == 0
        registry.start()
        assert registry.client().get(location).headers["range"] == "0-5"

    @pytest.mark.parametrize("moment", [0, 0.1, 0.2, 0.3, 0.4])
    def test_however_early_it_is_told(self, serve: Serve, moment: float) -> None:
        """A worker that is just being started must not miss the signal."""
        registry = serve(workers=8, start=False).start(ready=False)
        time.sleep(moment)  # not waiting for anything: each value is another moment of the start
        os.kill(registry.process.pid, signal.SIGTERM)
        began = time.monotonic()
        assert registry.process.wait() in (0, -signal.SIGTERM)
        assert time.monotonic() - began < _DRAIN / 2

    def test_an_upload_in_flight_is_finished(self, serve: Serve) -> None:
        registry = serve()
        content = b"x" * 100_000
        _, connection = _begin_upload(registry, content[:50_000], method="PUT", content=content)
        os.kill(registry.process.pid, signal.SIGTERM)
        until(lambda: "stopping" in registry.messages(), "the server is stopping")
        answer = _finish(connection, content[50_000:])
        assert answer.startswith(b"HTTP/1.1 201")
        assert b"connection: close" in answer.lower()
        assert registry.process.wait() == 0
        registry.start()
        assert Repository(registry.client(), "app").get_blob(digest_of(content)).content == content

    def test_a_download_in_flight_is_finished(self, serve: Serve) -> None:
        registry = serve()
        content = os.urandom(32 << 20)
        digest = Repository(registry.client(), "app").push_blob(content)
        with registry.client().stream("GET", f"/v2/app/blobs/{digest}") as response:
            pieces = response.iter_bytes()
            received = [next(pieces)]
            os.kill(registry.process.pid, signal.SIGTERM)
            until(lambda: "stopping" in registry.messages(), "the server is stopping")
            received += pieces
        assert digest_of(b"".join(received)) == digest
        assert registry.process.wait() == 0

    def test_an_upload_that_does_not_end_in_time_can_be_resumed(self, serve: Serve) -> None:
        registry = serve({"http": {"draintimeout": "500ms"}})
        location, connection = _begin_upload(registry, b"12345")
        assert registry.stop() == 0
        connection.close()
        registry.start()
        client = registry.client()
        assert client.get(location).headers["range"] == "0-4"
        assert client.patch(location, content=b"6789", headers={"content-range": "5-8"}).status_code == 202
        assert client.put(location, params={"digest": digest_of(b"123456789")}).status_code == 201

    def test_while_it_drains_the_port_is_free_for_the_next(self, serve: Serve) -> None:
        """New clients meet a refusal they understand, or the next server, never a queue that nobody serves."""
        registry = serve()
        _, connection = _begin_upload(registry, b"123")
        os.kill(registry.process.pid, signal.SIGTERM)
        until(lambda: not _listens(registry), "nobody listens")
        with socket.create_server((registry.host, registry.port)):
            assert _finish(connection, b"456").startswith(b"HTTP/1.1 202")
        assert registry.process.wait() == 0


class TestNotice:
    """With `shutdown.notice` clients go elsewhere before anything is closed."""

    def test_no_request_of_a_busy_client_fails(self, serve: Serve) -> None:
        """Each connection is told that it ends, in an answer or by GOAWAY, and none ends otherwise."""
        registry = serve(_NOTICE, tls=True, workers=2)
        digest = Repository(registry.client(), "app").push_blob(b"x" * 1000)
        paths = ("/v2/", f"/v2/app/blobs/{digest}", "/healthz")
        asked = threading.Semaphore(0)
        with ThreadPoolExecutor(12) as pool:
            clients = [
                pool.submit(client, registry, path, asked.release)
                for client in (_ask_until_told_to_close, _ask_until_goaway)
                for path in 2 * paths
            ]
            for _ in range(100):
                assert asked.acquire(timeout=60)
            registry.signal_stop()
            for client in clients:
                client.result()
        assert registry.process.wait() == 0

    def test_who_is_still_led_here_is_served(self, serve: Serve) -> None:
        """On a connection that ends with the answer."""
        registry = serve(_NOTICE)
        registry.signal_stop()
        until(lambda: "stopping" in registry.messages(), "the server is stopping")
        until(lambda: registry.fresh.get(f"{registry.url}/v2/").headers.get("connection") == "close", "it takes leave")
        assert registry.fresh.get(f"{registry.url}/v2/").status_code == 200
        assert registry.debug("/readyz").status_code == 200
        assert registry.process.wait() == 0

    def test_requests_in_flight_then_have_their_time(self, serve: Serve) -> None:
        registry = serve({"shutdown": {"notice": "300ms"}})
        _, connection = _begin_upload(registry, b"123")
        registry.signal_stop()
        until(lambda: not _listens(registry), "nobody listens")
        assert _finish(connection, b"456").startswith(b"HTTP/1.1 202")
        assert registry.process.wait() == 0


class TestWorkers:
    def test_a_worker_that_dies_is_replaced(self, serve: Serve) -> None:
        registry = serve(workers=2)
        registry.crashes_expected = True
        before = registry.worker_pids()
        for pid in before:
            _replace(registry, pid)
        assert not set(before) & set(registry.worker_pids())
        for _ in range(20):
            assert registry.fresh.get(f"{registry.url}/v2/").status_code == 200
        assert "exit code -9" in registry.messages()

    def test_while_one_dies_the_others_serve(self, serve: Serve) -> None:
        registry = serve(workers=2)
        registry.crashes_expected = True
        client = registry.client()
        client.get("/v2/")
        # Whichever worker has this connection, the other one dies.
        with registry.connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(4096)
            for pid in registry.worker_pids():
                if not _has_connection(pid, connection.getsockname()[1]):
                    registry.kill_worker(pid)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")

    def test_a_worker_that_has_just_been_started_hears_that_it_is_over(self, serve: Serve) -> None:
        registry = serve(workers=2)
        registry.crashes_expected = True
        for _ in range(3):
            _replace(registry, registry.worker_pids()[0])
            began = time.monotonic()
            assert registry.stop() == 0
            assert time.monotonic() - began < _DRAIN / 2
            registry.start()

    def test_workers_that_keep_dying_end_the_server(self, serve: Serve) -> None:
        """So that whoever watches over it sees that something is wrong."""
        registry = serve()
        registry.crashes_expected = True
        for _ in range(5):
            _replace(registry, registry.worker_pids()[0])
        registry.kill_worker(registry.worker_pids()[0])
        assert registry.process.wait() == 1
        assert "giving up" in registry.messages()

    def test_none_outlives_the_first_process(self, serve: Serve) -> None:
        registry = serve(workers=2)
        client = registry.client()
        client.get("/v2/")  # a connection that stays open
        _, connection = _begin_upload(registry, b"123")  # and one that is in the middle of something
        workers = registry.worker_pids()
        os.kill(registry.process.pid, signal.SIGKILL)
        registry.process.wait()
        until(lambda: not _listens(registry), "nobody listens")
        registry.start()
        assert client.get("/v2/").status_code == 200
        connection.close()
        until(lambda: not any(map(_alive, workers)), "the workers are gone")


class TestStart:
    def test_a_port_in_use_is_one_line(self, serve: Serve) -> None:
        first = serve()
        second = serve({"http": {"addr": first.address}}, start=False).start(ready=False)
        assert second.process.wait() == 2
        [line] = second.log.read_text().splitlines()
        assert "http.addr" in line
        assert first.address in line

    def test_the_first_worker_needs_no_luck_with_the_folder(self, serve: Serve, tmp_path: Path) -> None:
        deep = tmp_path / "not" / "there" / "yet"
        registry = serve({"storage": {"filesystem": {"rootdirectory": str(deep)}}})
        Repository(registry.client(), "app").push_image("v1")
        assert (deep / "docker/registry/v2/repositories/app/_manifests/tags/v1/current/link").exists()

    def test_a_folder_that_cannot_be_made_is_one_line(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        settings = {"storage": {"filesystem": {"rootdirectory": str(tmp_path / "file" / "data")}}}
        registry = serve(settings, start=False).start(ready=False)
        assert registry.process.wait() == 2
        [line] = registry.log.read_text().splitlines()
        assert "rootdirectory" in line


_DRAIN = 60
_NOTICE = {"shutdown": {"notice": "4s"}}


def _begin_upload(
    registry: LiveRegistry, sent: bytes, *, method: str = "PATCH", content: bytes = b"123456"
) -> tuple[str, socket.socket]:
    """Sends the head of a request and part of its body, and waits until the server has that; returns both."""
    repository = Repository(registry.client(), "app")
    location = repository.start_upload()
    content = content if len(content) >= len(sent) else sent * 2
    connection = registry.connect()
    path = f"{location}?digest={digest_of(content)}"
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + sent)
    in_flight = "regatta_http_requests_in_flight"
    until(lambda: registry.metric(in_flight) == 1, "the request is in flight")
    return location, connection


def _finish(connection: socket.socket, rest: bytes) -> bytes:
    """Sends the rest of a body and returns all that is answered."""
    answer = b""
    with connection:
        connection.sendall(rest)
        while piece := connection.recv(4096):
            answer += piece
    return answer


def _ask_until_told_to_close(registry: LiveRegistry, path: str, asked: Callable[[], None]) -> None:
    """Requests on one connection; what else may happen to it raises."""
    with httpx.Client(verify=registry.trust(), timeout=60) as client:
        while True:
            answer = client.get(f"{registry.url}{path}")
            assert answer.status_code == 200
            if answer.headers.get("connection") == "close":
                return
            asked()


def _ask_until_goaway(registry: LiveRegistry, path: str, asked: Callable[[], None]) -> None:
    """The same over HTTP/2."""
    trust = registry.trust()
    assert isinstance(trust, ssl.SSLContext)
    connected = contextlib.closing(HTTP2Connection(registry.host, registry.port, trust))
    with connected as connection, contextlib.suppress(GoneAway):
        while True:
            assert connection.get(path)[0] == 200
            asked()


def _replace(registry: LiveRegistry, worker: int) -> None:
    """Kills a worker and waits for another one in its place."""
    count = len(registry.worker_pids())
    registry.kill_worker(worker)
    until(
        lambda: worker not in registry.worker_pids() and len(registry.worker_pids()) == count, "the worker is replaced"
    )


def _listens(registry: LiveRegistry) -> bool:
    try:
        registry.connect().close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was queueing when the port was let go of
        return False
    return True


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def _has_connection(pid: int, peer_port: int) -> bool:
    """Whether a process has the server's end of a TCP connection on loopback."""
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[2].endswith(f":{peer_port:04X}")
    }
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(str(descriptor.readlink()))
    return bool({f"socket:[{inode}]" for inode in inodes} & links)
