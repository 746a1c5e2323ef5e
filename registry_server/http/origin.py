"""Where a request came from and what it was sent to, as its client sees it, also through proxies."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

from registry_server.http.engine import Scope
from registry_server.http.message import Request

Networks = Sequence[IPv4Network | IPv6Network]

_HOST: Final = re.compile(r"[A-Za-z0-9.\-:\[\]]{1,255}")


def external(base_url: str, request: Request, scope: Scope) -> tuple[str, str]:
    """The registry's URL and host as the client sees them; `base_url` is what the configuration says, if it does."""
    if base_url:
        return base_url, urlsplit(base_url).netloc
    host = request.headers.get("host") or scope.authority or "localhost"  # HTTP/2 has an authority only
    if _HOST.fullmatch(host) is None:
        host = "localhost"
    forwarded = request.headers.get("x-forwarded-proto")
    return f"{forwarded if forwarded in ('http', 'https') else scope.scheme}://{host}", host


def claimed_address(request: Request) -> str:
    """The client's address by what proxies say, to tell and not to trust; else the peer's, with its port."""
    for header in ("x-forwarded-for", "x-real-ip"):
        first = (request.headers.get(header) or "").partition(",")[0].strip()
        try:
            return str(ip_address(first))
        except ValueError:
            continue
    return request.client


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
