"""Requests and responses as handlers see them."""

from collections.abc import AsyncIterable, Mapping
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


@dataclass(slots=True)
class Response:
    """One response. `Content-Length` is the adapter's business, but for HEAD."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | File | None = None

    @property
    def length(self) -> int:
        """Bytes of the body."""
        if self.body is None:
            return 0
        return len(self.body) if isinstance(self.body, bytes) else self.body.end - self.body.start
