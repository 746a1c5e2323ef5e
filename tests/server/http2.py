"""A small HTTP/2 client, of frames, since httpx and h2 end a connection at a GOAWAY that lets requests finish."""

import socket
import ssl
from contextlib import suppress

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9


class GoneAway(Exception):
    """The server takes no further requests on this connection and has not taken this one: ask on another."""


class HTTP2Connection:
    """One connection to a server, with one request at a time."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext) -> None:
        trust.set_alpn_protocols(["h2"])
        self._socket = trust.wrap_socket(socket.create_connection((host, port), timeout=30), server_hostname=host)
        assert self._socket.selected_alpn_protocol() == "h2"
        self._authority = f"{host}:{port}"
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._stream = -1
        self._last_taken: int | None = None
        self._socket.sendall(_PREFACE + SettingsFrame().serialize())

    @property
    def certificate(self) -> bytes:
        return self._socket.getpeercert(True) or b""

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. Raises GoneAway when the request was not taken, ConnectionError when it failed."""
        if self._last_taken is not None:
            raise GoneAway
        self._stream += 2
        head = [(":method", "GET"), (":path", path), (":scheme", "https"), (":authority", self._authority)]
        request = HeadersFrame(self._stream, self._encoder.encode(head), flags=["END_HEADERS", "END_STREAM"])
        self._socket.sendall(request.serialize())
        status, body, over = 0, b"", False
        while not over:
            frame = self._receive()
            match frame:
                case HeadersFrame():
                    status = int(dict(self._decoder.decode(frame.data, raw=True))[b":status"])
                case DataFrame():
                    body += frame.data
                    self._give_back(len(frame.data))
                case RstStreamFrame():
                    raise ConnectionError(f"the stream was reset: {frame.error_code}")
            over = frame.stream_id == self._stream and "END_STREAM" in frame.flags
        return status, body

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> Frame:
        """The next frame; those that concern the connection are taken care of."""
        frame, length = Frame.parse_frame_header(memoryview(self._read(_HEAD)))
        frame.parse_body(memoryview(self._read(length)))
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                self._tell(SettingsFrame(flags=["ACK"]))
            case PingFrame() if "ACK" not in frame.flags:
                self._tell(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))
            case GoAwayFrame():
                assert frame.error_code == 0, frame
                self._last_taken = frame.last_stream_id
                if self._last_taken < self._stream:
                    raise GoneAway
        return frame

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the connection was closed in the middle of a request")
            data += piece
        return data

    def _give_back(self, length: int) -> None:
        if length:
            for stream in (0, self._stream):
                self._tell(WindowUpdateFrame(stream, window_increment=length))

    def _tell(self, frame: Frame) -> None:
        """Sends what a server that has closed already, after its last response, need not know."""
        with suppress(OSError):
            self._socket.sendall(frame.serialize())
