"""Where a request comes from, as failed logins are counted."""

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from registry_server.http.message import Request
from registry_server.http.origin import client_address

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


async def nothing() -> AsyncIterator[bytes]:
    return
    yield


def request(peer: str, forwarded: str | None = None) -> Request:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return Request("GET", "/v2/", "", headers, peer, nothing())


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1:4711", None, "192.0.2.1"),
        ("[2001:db8::1]:4711", None, "2001:db8::1"),
        ("192.0.2.1:4711", "198.51.100.1", "192.0.2.1"),
        ("10.1.1.1:4711", None, "10.1.1.1"),
        ("10.1.1.1:4711", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1:4711", "made up, 198.51.100.1", "198.51.100.1"),
        ("10.1.1.1:4711", "198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1:4711", "203.0.113.1,198.51.100.1 , 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1:4711", "10.2.2.2", "10.2.2.2"),
        ("10.1.1.1:4711", "", "10.1.1.1"),
        ("[::ffff:10.1.1.1]:4711", "198.51.100.1", "198.51.100.1"),
        ("[fd00::1%eth0]:4711", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_of_what_proxies_say_only_what_trusted_ones_added_counts(
    peer: str, forwarded: str | None, address: str
) -> None:
    assert client_address(request(peer, forwarded), TRUSTED) == address


def test_without_trusted_proxies_the_peer_counts() -> None:
    assert client_address(request("10.1.1.1:4711", "198.51.100.1"), ()) == "10.1.1.1"
