"""An endpoint of notifications: a real HTTP server that keeps what it gets, and answers as a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.server.live import until


@dataclass(frozen=True)
class Delivery:
    """One request that an endpoint got."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def event(self) -> dict[str, Any]:
        """The one event in distribution's envelope."""
        (event,) = self.body["events"]
        return dict(event)


class Receiver:
    """What arrived so far, and how the next request is answered."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        """Those that were accepted."""
        self.refused: list[Delivery] = []
        self.answer: Callable[[Delivery], int] = lambda _: 200
        """The status for a request; it may take its time."""
        self.headers: dict[str, str] = {}
        self.port = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [delivery.event for delivery in self.deliveries]

    def await_events(self, count: int) -> list[dict[str, Any]]:
        """The events, once there are so many."""
        until(lambda: len(self.deliveries) >= count, f"{count} events arrive", within=60)
        return self.events

    def take(self, delivery: Delivery) -> int:
        status = self.answer(delivery)
        with self._lock:
            (self.deliveries if status < 300 else self.refused).append(delivery)
        return status

    @contextmanager
    def listening(self) -> Iterator["Receiver"]:
        """Takes requests while the block runs, always on the same port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.take(Delivery(self.path, headers, body))
                self.send_response(status)
                for name, value in {"content-length": "0", **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_HEAD(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver.take(Delivery(self.path, headers, None)))
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """The tests say enough."""

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            self.port = server.server_port
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
