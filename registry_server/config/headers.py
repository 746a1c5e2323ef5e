"""Headers of HTTP in a configuration: names with lists of values, as distribution writes them."""

import re
from collections.abc import Iterable, Mapping

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def check_headers(headers: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError for what no message may have; says nothing of values, which may be secret."""
    for name, values in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header (RFC 9110, 5.1)")
        if not all(map(_VALUE.fullmatch, values)):
            raise ValueError(f"a value of {name} has characters a header must not have (RFC 9110, 5.5)")
