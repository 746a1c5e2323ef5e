"""Responses that come in pieces: at the client's pace, whole or visibly broken."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from h2.exceptions import InvalidBodyLengthError

from registry_server.http.engine import WINDOW, Certificate, Exchange, Listener, Scope, StreamBroken, bind, stream
from registry_server.http.message import Response
from tests.server.pki import Authority

PIECE = bytes(range(256)) * 256
LARGE = 1 << 30


class Source:
    """A body that knows how much of it was asked for, and whether it was closed."""

    def __init__(self, length: int, *, fails_after: int | None = None) -> None:
        self.length = length
        self.given = 0
        self.closed = asyncio.Event()
        self.broken = asyncio.Event()
        self._fails_after = length + 1 if fails_after is None else fails_after

    async def pieces(self) -> AsyncGenerator[bytes]:
        try:
            while self.given < self.length:
                if self.given >= self._fails_after:
                    raise ConnectionError("the store went away")
                piece = PIECE[: self.length - self.given]
                self.given += len(piece)
                yield piece
                await asyncio.sleep(0)
        finally:
            self.closed.set()


@pytest.mark.parametrize("length", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 8 * WINDOW + 7])
def test_the_body_arrives_as_it_was_given(tmp_path: Path, length: int) -> None:
    async def scenario() -> None:
        source = Source(length)
        async with _serving(tmp_path, source) as port, httpx.AsyncClient(timeout=60) as client:
            response = await client.get(f"http://127.0.0.1:{port}/")
            assert response.headers["content-length"] == str(length)
            assert response.content == (PIECE * (length // len(PIECE) + 1))[:length]
            await source.closed.wait()

    asyncio.run(scenario())


def test_a_client_that_reads_slowly_holds_the_source_up(tmp_path: Path) -> None:
    """The engine's own streams would take all of it into memory."""

    async def scenario() -> None:
        source = Source(LARGE)
        async with _serving(tmp_path, source) as port, _reader(port) as reader:
            given = await _rest(lambda: source.given)
            assert given < 32 * WINDOW  # the window, and what the kernel keeps for the connection
            await _receive(reader, 64 * WINDOW)
            assert await _rest(lambda: source.given) > given

    asyncio.run(scenario())


def test_the_source_is_closed_when_the_client_goes_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = Source(LARGE)
        async with _serving(tmp_path, source) as port:
            async with _reader(port) as reader:
                await _receive(reader, 4 * WINDOW)
            await asyncio.wait_for(source.broken.wait(), 60)
            assert source.closed.is_set()
            assert source.given < LARGE

    asyncio.run(scenario())


def test_a_failure_before_anything_was_sent_can_still_be_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = Source(LARGE, fails_after=len(PIECE))
        async with _serving(tmp_path, source) as port, httpx.AsyncClient(timeout=60) as client:
            response = await client.get(f"http://127.0.0.1:{port}/")
            assert response.status_code == 503
            assert response.text == "the store went away"

    asyncio.run(scenario())


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("lasting", [True, False])
def test_a_failure_later_on_breaks_the_response(tmp_path: Path, http2: bool, lasting: bool) -> None:
    """No client may take the part for the whole, whether the source fails or only ends too early."""

    async def scenario() -> None:
        source = Source(16 * WINDOW, fails_after=8 * WINDOW if lasting else None)
        length = 16 * WINDOW if lasting else 16 * WINDOW + 1
        authority = Authority(tmp_path) if http2 else None
        trust = ssl.create_default_context(cafile=authority.ca) if authority else False
        async with (
            _serving(tmp_path, source, length=length, authority=authority) as port,
            httpx.AsyncClient(timeout=60, http2=http2, verify=trust) as client,
        ):
            with pytest.raises((httpx.RemoteProtocolError, InvalidBodyLengthError)):
                await client.get(f"{'https' if http2 else 'http'}://127.0.0.1:{port}/")
            await asyncio.wait_for(source.broken.wait(), 60)
            assert source.closed.is_set()

    asyncio.run(scenario())


def test_a_redirect_names_the_other_place() -> None:
    response = Response.redirect("https://elsewhere/x?y=z", [("etag", '"1"')])
    assert response.status == 307
    assert response.headers == [("etag", '"1"'), ("location", "https://elsewhere/x?y=z")]
    assert response.length == 0


@asynccontextmanager
async def _serving(
    folder: Path, source: Source, *, length: int | None = None, authority: Authority | None = None
) -> AsyncIterator[int]:
    """The engine with one body to send, on a port."""

    async def application(scope: Scope, exchange: Exchange, closing: bool) -> None:
        try:
            await stream(exchange, 200, [], source.pieces(), source.length if length is None else length)
        except StreamBroken:
            source.broken.set()
        except ConnectionError as error:
            exchange.response_bytes(503, [], str(error).encode())

    pair = None if authority is None else authority.issue()
    certificate = None if pair is None else Certificate.read(pair.certificate, pair.key, minimum="tls1.2")
    with bind("127.0.0.1", 0) as listening:
        listener = Listener(application, listening, certificate=certificate, http2=authority is not None)
        try:
            yield listening.getsockname()[1]
        finally:
            await listener.close()


@asynccontextmanager
async def _reader(port: int) -> AsyncIterator[socket.socket]:
    """A connection on which a response has begun."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await loop.sock_recv(connection, 1000)).startswith(b"HTTP/1.1 200")
        yield connection


async def _receive(connection: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(await asyncio.get_running_loop().sock_recv(connection, size))


async def _rest(value: Callable[[], int]) -> int:
    """The value once it stays what it is."""
    values: list[int] = []
    while len(values) < 25 or len(set(values[-25:])) > 1:
        values.append(value())
        await asyncio.sleep(0.02)
    return values[-1]
