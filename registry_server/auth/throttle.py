"""Failed logins by address: whoever guesses gets a few tries, then one every few seconds.

Each address has a bucket of tries that fills again with time. Only addresses that failed lately are remembered, and
only so many of them; a network of a single IPv6 customer (/64) counts as one. Each worker counts for itself.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

TRIES: Final = 30
"""Failures in a row that an address has; a client with a wrong password tries a handful of times at once."""
ANOTHER_EVERY: Final = 5.0
"""Seconds after which an address may fail once more."""
REMEMBERED: Final = 16_384
"""Addresses, about 3 MB. Whoever has more of them at hand gets more tries, but never more memory."""


class Throttle:
    """Tells who may not try again yet."""

    def __init__(
        self,
        *,
        tries: int = TRIES,
        every: float = ANOTHER_EVERY,
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every = every
        self._full = tries * every
        self._remembered = remembered
        self._clock = clock
        self._empty_until: OrderedDict[bytes, float] = OrderedDict()
        """When each address would have all of its tries back; those that failed last are at the end."""

    def wait(self, address: str) -> int:
        """Whole seconds until this address may try again; 0 for now."""
        until = self._empty_until.get(_network(address))
        if until is None:
            return 0
        return max(0, math.ceil(until - self._clock() - self._full + self._every))

    def failed(self, address: str) -> None:
        """Count a failure."""
        network, now = _network(address), self._clock()
        self._empty_until[network] = max(self._empty_until.pop(network, now), now) + self._every
        if len(self._empty_until) > self._remembered:
            self._empty_until.popitem(last=False)

    def __len__(self) -> int:
        return len(self._empty_until)


def _network(address: str) -> bytes:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return b""  # a peer without an address, such as over a Unix socket
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed.packed[:8]
        parsed = parsed.ipv4_mapped
    return parsed.packed
