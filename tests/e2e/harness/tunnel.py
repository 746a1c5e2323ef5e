"""Lets clients on this machine use a Service by its name in the cluster, for which its certificate is.

It is a proxy of HTTP's CONNECT (RFC 9110, 9.3.6), for clients that heed HTTPS_PROXY, with one place to go.
"""

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = 1 << 16


@contextmanager
def tunnel(target: tuple[str, int]) -> Iterator[str]:
    """The proxy's URL while the block runs; whatever name a client asks for, it is connected to the target."""
    with _Proxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Proxy)
        while self.rfile.readline(_CHUNK).strip():
            pass
        try:
            upstream = socket.create_connection(server.target, timeout=30)
        except OSError as error:
            self.wfile.write(f"HTTP/1.1 502 {error}\r\n\r\n".encode())
            return
        with upstream:
            self.wfile.write(b"HTTP/1.1 200 connected\r\n\r\n")
            _relay(self.connection, upstream)


def _relay(client: socket.socket, upstream: socket.socket) -> None:
    """Until one of them ends."""
    other = {client: upstream, upstream: client}
    while True:
        for ready in select.select(list(other), [], [])[0]:
            try:
                data = ready.recv(_CHUNK)
                if not data:
                    return
                other[ready].sendall(data)
            except OSError:
                return
