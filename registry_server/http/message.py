"""Requests and responses as handlers see them."""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs

Headers = list[tuple[str, str]]


class RequestHeaders(Protocol):
    """A request's headers, asked for in lower case."""

    def get(self, key: str, default: None = None) -> str | None: ...


@dataclass(slots=True)
class Request:
    """One request, its body still on the way."""

    method: str
    path: str
    """Percent-decoded."""
    query_string: str
    headers: RequestHeaders
    client: str
    """Address and port of the peer."""
    body: AsyncIterable[bytes]
    """The body in pieces of the network's sizes; ends early, without an error, when the client is cut off."""
    received: int = 0
    """Bytes of the body that were taken so far."""
    user: str | None = None
    """The login's name, once known."""
    id: str = ""
    """The client's own or ours, once somebody asked for it."""

    @property
    def query(self) -> Mapping[str, str]:
        """The first value of each parameter."""
        if not self.query_string:
            return {}
        return {name: values[0] for name, values in parse_qs(self.query_string, keep_blank_values=True).items()}

    def query_all(self, name: str) -> list[str]:
        """All values of a parameter."""
        return parse_qs(self.query_string).get(name, [])


@dataclass(frozen=True, slots=True)
class File:
    """Part of a file as a body: `start` inclusive, `end` exclusive, in bytes."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that comes in pieces, no faster than the client takes them.

    What `pieces` raises before much has come becomes an error's response, and later breaks the connection, so that no
    part is taken for the whole. It is closed in any case.
    """

    pieces: AsyncGenerator[bytes]
    length: int
    """Bytes of all pieces."""


@dataclass(slots=True)
class Response:
    """One response. `Content-Length` is the adapter's business, but for HEAD."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | File | Stream | None = None
    mounted_from: str | None = None
    """The repository that a blob was taken over from, where it was."""

    @classmethod
    def redirect(cls, url: str, headers: Headers) -> "Response":
        """Sends the client to another place for the same request (307: with its method)."""
        return cls(307, [*headers, ("location", url)])

    @property
    def length(self) -> int:
        """Bytes of the body."""
        match self.body:
            case None:
                return 0
            case bytes():
                return len(self.body)
            case File():
                return self.body.end - self.body.start
            case Stream():
                return self.body.length
