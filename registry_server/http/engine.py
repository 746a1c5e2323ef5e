"""Granian, which speaks HTTP/1, HTTP/2 and TLS in Rust. No other module knows of it.

Granian's own process manager would reread certificates by replacing processes, and loses the connections that are
queueing or shaking hands. Here a worker's process starts a second listener on the same socket instead, lets the first
one stop accepting, and closes it when what it had accepted is done. That takes parts of Granian below its public
interface, so its version is pinned.
"""

import asyncio
import fcntl
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from granian._futures import _future_watcher_wrapper, _new_cbscheduler
from granian._granian import RSGIWorker, SocketHolder, WorkerSignal
from granian.constants import HTTPModes, SSLProtocols

BACKLOG: Final = 1024
MAX_CONNECTIONS: Final = 4096
"""Connections a worker serves at once; further ones wait in the backlog."""
FILE_THREADS: Final = 64
"""Threads that read files for responses."""
MAX_STREAMS: Final = 192
"""Streamed responses a worker sends at once, each of which may hold a further thread; others wait for their turn."""
WINDOW: Final = 256 << 10
"""Bytes of a streamed response that wait for the client at most."""
TAKEN_WITHIN: Final = 60
"""Seconds after which a streamed response that the engine has not begun to read has no client any more."""
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Scope(Protocol):
    """The head of a request, as RSGI gives it."""

    http_version: str
    scheme: str
    authority: str | None
    method: str
    path: str
    query_string: str
    client: str
    headers: Any


class Exchange(Protocol):
    """The way to a request's body and for its response, as RSGI gives it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...
    def response_file_range(
        self, status: int, headers: list[tuple[str, str]], file: str, start: int, end: int
    ) -> None: ...
    def response_file(self, status: int, headers: list[tuple[str, str]], file: str) -> None: ...


class StreamBroken(Exception):
    """A streamed response that ended before all of it was sent; `sent` bytes were, and the client can tell."""

    def __init__(self, reason: str, sent: int) -> None:
        super().__init__(reason)
        self.sent = sent


Application = Callable[[Scope, Exchange, bool], Awaitable[None]]
"""Answers one request; the flag says that its connection shall be closed afterwards."""


class CertificateError(Exception):
    """A certificate and a key that can't be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its key, as they were read together."""

    chain: bytes
    key: bytes
    minimum: SSLProtocols
    client_authorities: bytes = b""
    """Who has to have signed clients' certificates; without it no client needs one."""

    @classmethod
    def read(cls, chain: Path, key: Path, *, minimum: str, client_authorities: Sequence[Path] = ()) -> "Certificate":
        """Raises CertificateError for files that are missing, damaged or do not belong together."""
        authorities = _read_authorities(client_authorities)
        try:
            certificate = cls(chain.read_bytes(), key.read_bytes(), SSLProtocols(minimum), authorities)
            with certificate.files() as (chain_file, key_file, _):
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, key_file, _no_passphrase)
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise CertificateError(f"certificate {chain} with key {key}: {reason}") from error
        return certificate

    @contextmanager
    def files(self) -> Any:
        """Paths to read all of it from, exactly as it was read, whatever is on disk by now."""
        with (
            _in_memory(self.chain) as chain,
            _in_memory(self.key) as key,
            _in_memory(self.client_authorities) as authorities,
        ):
            yield chain, key, authorities if self.client_authorities else None


def _read_authorities(files: Sequence[Path]) -> bytes:
    """Raises CertificateError."""
    content = b""
    for file in files:
        try:
            pem = file.read_bytes()
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CertificateError(f"clients' authority {file}: {reason}") from error
        content += pem.rstrip() + b"\n"
    return content


def _no_passphrase() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise CertificateError("the key has a passphrase; store it without one")


@contextmanager
def _in_memory(content: bytes) -> Any:
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, which several processes may share. Raises OSError.

    An empty host is every address of the machine, over IPv6 and IPv4 where there is IPv6.
    """
    if not host:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(),
            backlog=BACKLOG,
        )
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


_streams = asyncio.Semaphore(MAX_STREAMS)


async def stream(
    exchange: Exchange, status: int, headers: list[tuple[str, str]], pieces: AsyncGenerator[bytes], length: int
) -> None:
    """Send a body of `length` bytes as it comes, holding no more of it than WINDOW and a piece. Raises StreamBroken.

    Granian's own streams take whatever they are given, so that a slow client costs the whole body (2.8.7: 1.3 GB for
    five readers of 256 MiB, where this costs 7 MB). Files are read at the client's pace, though, and a pipe can be read
    as one. Ending early breaks an HTTP/1 connection, and over HTTP/2 disagrees with `Content-Length`.
    What `pieces` raises before the window is full is raised as it is: nothing was sent yet, and an answer is due.
    """
    headers.append(("content-length", str(length)))
    async with _streams, aclosing(pieces):
        if length <= WINDOW:
            exchange.response_bytes(status, headers, await _collect(pieces, length))
            return
        with _Pipe() as pipe:
            try:
                async for piece in pieces:
                    view = memoryview(piece)
                    while view := view[pipe.write(view) :]:
                        if not pipe.shown:
                            exchange.response_file(status, headers, pipe.show())
                        await pipe.taken()
                _check_length(pipe.written, length)
            except Exception as error:
                if not pipe.shown:
                    raise
                reason = "the client went away" if isinstance(error, BrokenPipeError) else str(error) or repr(error)
                raise StreamBroken(reason, pipe.written) from error


async def _collect(pieces: AsyncGenerator[bytes], length: int) -> bytes:
    content = b"".join([piece async for piece in pieces])
    _check_length(len(content), length)
    return content


def _check_length(found: int, length: int) -> None:
    if found != length:
        raise EOFError(f"the body has {found} bytes instead of {length}")


class _Pipe:
    """A window between what comes and what the engine reads."""

    def __init__(self) -> None:
        self._end, self._start = os.pipe()
        os.set_blocking(self._start, False)
        with suppress(PermissionError):  # the user has many pipes already: the window is smaller, and works
            fcntl.fcntl(self._start, fcntl.F_SETPIPE_SZ, WINDOW)
        self.shown = False
        self.written = 0

    def __enter__(self) -> "_Pipe":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._start)
        self._let_go()

    def write(self, content: memoryview) -> int:
        """What fits; returns the bytes. Raises BrokenPipeError when the engine reads no more."""
        try:
            written = os.write(self._start, content)
        except BlockingIOError:
            return 0
        self.written += written
        return written

    def show(self) -> str:
        """The path by which the engine may read."""
        self.shown = True
        return f"/proc/self/fd/{self._end}"

    async def taken(self) -> None:
        """Wait until something fits again. Raises TimeoutError if the engine did not begin to read."""
        loop = asyncio.get_running_loop()
        taken = asyncio.Event()
        loop.add_writer(self._start, taken.set)
        try:
            async with asyncio.timeout(TAKEN_WITHIN if self._end >= 0 else None):
                await taken.wait()
        finally:
            loop.remove_writer(self._start)
        self._let_go()

    def _let_go(self) -> None:
        """Leave the reading to the engine alone, so that writing fails when it stops."""
        if self._end >= 0:
            os.close(self._end)
            self._end = -1


class Listener:
    """Accepts connections from a socket and hands their requests to an application, until closed."""

    def __init__(
        self, application: Application, sock: socket.socket, *, certificate: Certificate | None, http2: bool
    ) -> None:
        self._descriptor = os.dup(sock.fileno())
        self._family = sock.family
        self._signal = WorkerSignal()
        loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._signal.add_cb(lambda: loop.call_soon_threadsafe(self._has_closed))
        self._retired = False
        self._closing = False
        answer = _future_watcher_wrapper(lambda scope, protocol: application(scope, protocol, self._retired))
        scheduler = _new_cbscheduler(loop, answer, impl_asyncio=True)
        mode = HTTPModes.auto if http2 else HTTPModes.http1
        holder = SocketHolder(self._descriptor, False, BACKLOG)
        if certificate is None:
            worker = _worker(holder, mode, (False, None, None, None, str(SSLProtocols.tls12), None, [], False))
            worker.serve_async(scheduler, loop, self._signal)
        else:
            with certificate.files() as (chain, key, authorities):
                clients: tuple[Any, ...] = (authorities, [], authorities is not None)
                worker = _worker(holder, mode, (True, chain, key, None, str(certificate.minimum), *clients))
                worker.serve_async(scheduler, loop, self._signal)

    def retire(self) -> None:
        """Leave new connections to other listeners on the same socket; those accepted end with their next response.

        The descriptor Granian accepts from is replaced by a socket that nobody is told of, so that connections in the
        backlog are not lost, nor are those in the middle of a handshake. It is of the same family: a listener that is
        retired this early may have yet to ask for its own address, and ends in a panic where that is no IP address.
        """
        self._retired = True
        with socket.create_server((_LOOPBACK[self._family], 0), family=self._family, backlog=1) as nobody:
            nobody.setblocking(False)
            os.dup2(nobody.fileno(), self._descriptor, inheritable=False)

    async def close(self) -> None:
        """Close idle connections, and the others when their requests are answered; returns when all are."""
        if not self._closing:
            self._closing = True
            self._signal.set()
        await asyncio.shield(self._closed)

    def _has_closed(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)


def _worker(holder: SocketHolder, mode: HTTPModes, tls: tuple[Any, ...]) -> RSGIWorker:
    # In the order of Granian's RSGIWorker.
    return RSGIWorker(
        1,  # id
        (None, holder),
        None,  # channel for metrics
        1,  # runtime threads
        FILE_THREADS + MAX_STREAMS,  # threads that may block
        1,  # Python threads
        30,  # their idle timeout in seconds
        MAX_CONNECTIONS,
        mode,
        None,  # HTTP/1 settings
        None,  # HTTP/2 settings
        False,  # websockets
        None,  # static files
        *tls,
        (None, None),  # metrics
    )
