"""A man in the middle: passes requests on to a registry, counts them, and does harm to the answers when told to.

It speaks HTTP/1.1 over real sockets, and is the only place where an upstream's faults are made.
"""

import http.client
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

PIECE: Final = 64 << 10


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Harm:
    """What happens to the answers of matching requests."""

    pattern: re.Pattern[str]
    status: int | None = None
    """Answers itself, with this status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Closes the connection after so many bytes of the body."""
    corrupt_at: int | None = None
    """Sends another byte there."""
    gate: threading.Event | None = None
    """Sends no more than half of the body until it is set, or nothing of an answer that has none."""
    times: int | None = None
    """Answers it happens to; all of them unless said."""


class Meddler:
    """One man in the middle, before one registry."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.asked: list[Asked] = []
        self.ranges = True
        """Whether the registry gets to see that only a part is wanted."""
        self._harms: list[Harm] = []
        self._lock = threading.Lock()
        meddler = self

        class Handler(_Handler):
            def handle_one(self) -> None:
                meddler._pass_on(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "Meddler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self._server.shutdown()
        self._server.close_all()
        self._thread.join()

    def harm(self, pattern: str, **how: object) -> Harm:
        """Do harm to answers to requests whose `METHOD path` has the pattern in it, until `heal`."""
        harm = Harm(re.compile(pattern), **how)  # type: ignore[arg-type]
        self._harms.append(harm)
        return harm

    def heal(self) -> None:
        """Do no more harm, and let go of what waits."""
        for harm in self._harms:
            if harm.gate is not None:
                harm.gate.set()
        self._harms.clear()

    def forget(self) -> None:
        """Count anew."""
        self.asked.clear()

    def count(self, pattern: str) -> int:
        """Requests so far whose `METHOD path` has the pattern in it."""
        return sum(re.search(pattern, f"{one.method} {one.path}") is not None for one in self.asked)

    def _harm_for(self, line: str) -> Harm | None:
        with self._lock:
            for harm in self._harms:
                if harm.times != 0 and harm.pattern.search(line):
                    if harm.times is not None:
                        harm.times -= 1
                    return harm
        return None

    def _pass_on(self, request: "_Handler") -> None:
        self.asked.append(Asked(request.command, request.path, dict(request.headers.items())))
        harm = self._harm_for(f"{request.command} {request.path}")
        if harm is not None and harm.status is not None:
            if harm.gate is not None:
                harm.gate.wait()
            request.answer(harm.status, {"Content-Length": "0", **harm.headers})
            return
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else None
        with _connection(self.target) as connection:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            # The registry makes the addresses it gives out of the name it is called by.
            headers["Host"] = self.address
            if not self.ranges:
                headers.pop("Range", None)
            # As a proxy it is asked for whole URLs.
            path = re.sub(r"^http://[^/]+", "", request.path)
            connection.request(request.command, path, body, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            request.answer(answer.status, kept | dict(harm.headers if harm else {}))
            if request.command != "HEAD":
                _send(request, answer, harm, int(answer.headers.get("Content-Length") or 0))


def _send(request: "_Handler", answer: http.client.HTTPResponse, harm: Harm | None, length: int) -> None:
    sent = 0
    while piece := answer.read(PIECE):
        if harm is not None:
            if harm.gate is not None and sent + len(piece) > length // 2:
                request.wfile.flush()
                harm.gate.wait()
            if harm.corrupt_at is not None and sent <= harm.corrupt_at < sent + len(piece):
                changed = bytearray(piece)
                changed[harm.corrupt_at - sent] ^= 1
                piece = bytes(changed)
            if harm.cut_after is not None and sent + len(piece) > harm.cut_after:
                request.wfile.write(piece[: harm.cut_after - sent])
                request.close_connection = True
                return
        request.wfile.write(piece)
        sent += len(piece)


@contextmanager
def _connection(target: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(target, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    handle_one: Callable[[], None]

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def _handle(self) -> None:
        with suppress(OSError):  # whoever asked is gone
            self.handle_one()

    def answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self._open: set[object] = set()

    def process_request(self, request: object, client_address: object) -> None:
        self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: object) -> None:
        self._open.discard(request)
        super().shutdown_request(request)  # type: ignore[arg-type]

    def close_all(self) -> None:
        """Ends connections that are kept open, so that no thread stays."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(2)  # type: ignore[attr-defined]
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none."""


_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})
