"""Headers of HTTP in a configuration: names with lists of values, as distribution writes them."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator

from registry_server.config.section import Secret

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def check_headers(headers: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError for what no message may have; says nothing of values, which may be secret."""
    for name, values in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header (RFC 9110, 5.1)")
        if not all(map(_VALUE.fullmatch, values)):
            raise ValueError(f"a value of {name} has characters a header must not have (RFC 9110, 5.5)")


def _check_secret(headers: dict[str, tuple[Secret, ...]]) -> dict[str, tuple[Secret, ...]]:
    check_headers({name: [value.get_secret_value() for value in values] for name, values in headers.items()})
    return headers


SecretHeaders = Annotated[dict[str, tuple[Secret, ...]], AfterValidator(_check_secret)]
"""Headers of requests to others, which may hold what only those are to know."""
