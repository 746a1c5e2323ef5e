"""Memory is bounded by connections, never by the size of blobs."""

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository
from tests.server.live import LiveRegistry, until

pytestmark = pytest.mark.endurance

GIBIBYTE = 1 << 30
MEGABYTE = 1_000_000
LIMIT = 150 * MEGABYTE
PIECE = hashlib.shake_128(b"memory").digest(1 << 20)


class Content:
    """Bytes that are never in memory as a whole, and differ in each mebibyte."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.size >> 20):
            yield number.to_bytes(8, "big") + PIECE[8:]

    def digest(self) -> str:
        hasher = hashlib.sha256()
        for piece in self:
            hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}"


@pytest.mark.parametrize("http2", [False, True])
def test_a_blob_of_a_gibibyte_goes_in_and_out(serve: Serve, http2: bool) -> None:
    registry = serve(tls=http2, forked=False)
    client = registry.client(http2=http2)
    content = Content(GIBIBYTE if not http2 else GIBIBYTE // 8)
    digest = content.digest()
    location = Repository(client, "app").start_upload()
    assert client.patch(location, content=iter(content)).status_code == 202
    assert client.put(location, params={"digest": digest}).status_code == 201
    hasher = hashlib.sha256()
    with client.stream("GET", f"/v2/app/blobs/{digest}") as response:
        for piece in response.iter_raw():
            hasher.update(piece)
    assert f"sha256:{hasher.hexdigest()}" == digest
    assert _peak(registry) < LIMIT


def test_slow_readers_cost_no_more_than_their_connections(serve: Serve) -> None:
    """distribution grows by 210 MB under fifty of them."""
    registry = serve(forked=False)
    content = Content(64 << 20)
    digest = content.digest()
    client = registry.client()
    location = Repository(client, "app").start_upload()
    assert client.put(location, params={"digest": digest}, content=iter(content)).status_code == 201
    with ExitStack() as readers:
        connections = [readers.enter_context(registry.connect()) for _ in range(30)]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        _await_rest(lambda: _resident(registry))
        assert _peak(registry) < LIMIT
        assert _read_body(connections[0], content.size) == content.size
    assert client.get("/v2/").status_code == 200


def test_writers_that_are_many_cost_no_more_than_their_connections(serve: Serve) -> None:
    registry = serve(forked=False)
    content = Content(32 << 20)
    digest = content.digest()
    failures: list[Exception] = []

    def push(number: int) -> None:
        try:
            with registry.client() as client:
                repository = Repository(client, f"app{number}")
                response = client.put(repository.start_upload(), params={"digest": digest}, content=iter(content))
                assert response.status_code == 201
        except Exception as error:  # noqa: BLE001, told below
            failures.append(error)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert _peak(registry) < LIMIT


def test_an_upload_that_trickles_holds_little(serve: Serve) -> None:
    """Many tiny pieces must not be gathered one by one."""
    registry = serve(forked=False)
    before = _peak(registry)
    location = Repository(registry.client(), "app").start_upload()
    with registry.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(60):
            connection.sendall(b"1\r\nx\r\n" * 500)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 202")
    assert registry.client().get(location).headers["range"] == "0-29999"
    assert _peak(registry) - before < 50 * MEGABYTE


def _peak(registry: LiveRegistry) -> int:
    """The most memory a worker has had, in bytes."""
    return max(_status(pid, "VmHWM") for pid in registry.worker_pids())


def _resident(registry: LiveRegistry) -> int:
    return max(_status(pid, "VmRSS") for pid in registry.worker_pids())


def _status(pid: int, field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _await_rest(measure: Callable[[], int]) -> None:
    """Waits until a value stays what it is."""
    values: list[int] = []

    def rests() -> bool:
        values.append(measure())
        return len(values) > 25 and len(set(values[-25:])) == 1

    until(rests, "memory stays as it is")


def _read_body(connection: socket.socket, size: int) -> int:
    """Reads on until so many bytes of a body have come, its beginning read already; returns their count."""
    received = 0
    while received < size - 1000 and (piece := connection.recv(1 << 20)):
        received += len(piece)
    return size if received >= size - 1000 else received
