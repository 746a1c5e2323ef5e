"""Where a request came from and what it was sent to, as its client sees it, also through proxies."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from registry_server.http.engine import Scope
from registry_server.http.message import Request

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


def client_address(request: Request) -> str:
    """The client's address by what proxies say, to tell and not to trust; else the peer's, with its port."""
    for header in ("x-forwarded-for", "x-real-ip"):
        first = (request.headers.get(header) or "").partition(",")[0].strip()
        try:
            return str(ip_address(first))
        except ValueError:
            continue
    return request.client
