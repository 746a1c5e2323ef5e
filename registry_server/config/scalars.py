"""The scalar types of the configuration file, durations, addresses and text, as distribution reads and writes them."""

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_UNITS = (("h", 3600 * 10**6), ("m", 60 * 10**6), ("s", 10**6), ("ms", 10**3), ("us", 1))
_TERM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LONGEST = 2**63 - 1
"""Go's longest duration in nanoseconds, about 292 years."""


def parse_duration(value: object) -> timedelta:
    """A duration in Go's syntax (`10s`, `1h30m`, `500ms`); a bare integer is nanoseconds, as distribution reads it.

    Raises ValueError when it is neither, negative, or so short that a forgotten unit is the likely cause.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        nanoseconds = Decimal(value)
    elif isinstance(value, str):
        nanoseconds = _nanoseconds(value)
    else:
        raise ValueError("must be a duration such as 10s, 500ms or 1h30m")  # noqa: TRY004  (pydantic wants ValueError)
    if not 0 <= nanoseconds <= _LONGEST:
        raise ValueError("must be a duration between 0s and 290 years")
    if 0 < nanoseconds < 10**6:
        raise ValueError(f"{value} is {nanoseconds:f} nanoseconds; give a unit, for example {value}s or {value}m")
    return timedelta(microseconds=round(nanoseconds / 1000))


def _nanoseconds(text: str) -> Decimal:
    if text == "0":
        return Decimal(0)
    total, end = Decimal(0), 0
    for term in _TERM.finditer(text):
        if term.start() != end:
            break
        total += Decimal(term[1]) * _NANOSECONDS[term[2]]
        end = term.end()
    if not text or end != len(text):
        raise ValueError("must be a duration such as 10s, 500ms or 1h30m")
    return total


def format_duration(duration: timedelta) -> str:
    """The shortest text in Go's syntax that reads back as the same duration, largest unit first: `1h30m`, `10s`."""
    rest = duration // timedelta(microseconds=1)
    if not rest:
        return "0s"
    terms = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            terms.append(f"{count}{unit}")
    return "".join(terms)


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `host:port`. An empty host is every address of the machine; port 0 is one that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[^:\[\]/\s]*)):(?P<port>\d{1,5})", re.ASCII)


_HIGHEST_PORT = 2**16 - 1


def parse_address(value: object) -> Address:
    """`host:port`, `:port` or `[::1]:port` as an Address; raises ValueError."""
    if isinstance(value, Address):
        return value
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be host:port or :port, for example :5000 or 127.0.0.1:5000")
    if (port := int(match["port"])) > _HIGHEST_PORT:
        raise ValueError(f"port {port} does not exist; the highest is {_HIGHEST_PORT}")
    return Address(match["v6"] or match["host"] or "", port)


ListenAddress = Annotated[
    Address, BeforeValidator(parse_address), PlainSerializer(str, return_type=str, when_used="json")
]


class PlainInt(int):
    """An integer as YAML wrote it, so that a text such as a password of digits keeps its leading zeros."""

    text: str


class PlainFloat(float):
    """A number as YAML wrote it; see PlainInt."""

    text: str


def _as_text(value: Any) -> Any:
    return value.text if isinstance(value, PlainInt | PlainFloat) else value


AsText = BeforeValidator(_as_text)
Text = Annotated[str, AsText]
"""A text; a bare number counts as the characters it is written with, as in distribution."""
