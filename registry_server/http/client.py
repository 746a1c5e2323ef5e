"""Where a request comes from: the peer's address, or what proxies that are trusted say of it."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from registry_server.http.message import Request

Networks = Sequence[IPv4Network | IPv6Network]


def client_address(request: Request, trusted: Networks) -> str:
    """The address a request came from.

    Of `X-Forwarded-For` only what trusted proxies have added counts: from its end, up to the first who is none.
    """
    address = request.client.rpartition(":")[0].strip("[]")
    if trusted and _among(address, trusted):
        for hop in reversed((request.headers.get("x-forwarded-for") or "").split(",")):
            if not hop.strip():
                break
            address = hop.strip()
            if not _among(address, trusted):
                break
    return address


def _among(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)
