"""Certificates of clients (`http.tls.clientcas`): without one of the right authority there is no connection."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving, until
from tests.server.pki import Authority, Pair

USERS = {"ci": "c-secret"}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, clients: Authority) -> Iterator[LiveRegistry]:
    tls = {"clientcas": [str(clients.ca)], "clientauth": "require-and-verify-client-cert"}
    with serving(tmp_path_factory.mktemp("mutual"), {"http": {"tls": tls}}, users=USERS, tls=True) as running:
        yield running


def client(registry: LiveRegistry, pair: Pair | None, *, login: bool = True, http2: bool = False) -> httpx.Client:
    trust = registry.trust()
    assert isinstance(trust, ssl.SSLContext)
    if pair is not None:
        trust.load_cert_chain(pair.certificate, pair.key)
    auth = ("ci", USERS["ci"]) if login else None
    return httpx.Client(base_url=registry.url, verify=trust, timeout=60, auth=auth, http2=http2)


def is_let_in(registry: LiveRegistry, pair: Pair | None) -> bool:
    with client(registry, pair) as one:
        try:
            return one.get("/v2/").status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.parametrize("http2", [False, True])
def test_a_client_with_a_certificate_is_let_in_and_still_logs_in(
    registry: LiveRegistry, clients: Authority, http2: bool
) -> None:
    pair = clients.issue("client")
    with client(registry, pair, http2=http2) as one:
        Repository(one, f"mutual{http2}".lower()).push_image("v1")
    with client(registry, pair, login=False) as nobody:
        assert nobody.get("/v2/").status_code == 401


def test_without_one_or_with_a_strangers_nobody_is(registry: LiveRegistry, tmp_path: Path) -> None:
    assert not is_let_in(registry, None)
    assert not is_let_in(registry, Authority(tmp_path).issue("stranger"))
    assert registry.authority is not None
    assert not is_let_in(registry, registry.authority.issue("ours"))


def test_authorities_change_without_a_restart(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one, other = Authority(tmp_path / "one"), Authority(tmp_path / "other")
    bundle = tmp_path / "clients.pem"
    bundle.write_bytes(one.ca.read_bytes())
    registry = serve({"http": {"tls": {"clientcas": [str(bundle)]}}}, users=USERS, tls=True)
    first, second = one.issue("first"), other.issue("second")
    assert is_let_in(registry, first)
    assert not is_let_in(registry, second)
    bundle.write_bytes(one.ca.read_bytes() + other.ca.read_bytes())
    until(lambda: is_let_in(registry, second), "the second authority counts")
    assert is_let_in(registry, first)
    bundle.write_bytes(other.ca.read_bytes())
    until(lambda: not is_let_in(registry, first), "the first counts no more")


def test_a_file_that_has_no_certificate_is_said_before_serving(serve: Serve, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nonsense")
    registry = serve({"http": {"tls": {"clientcas": [str(broken)]}}}, tls=True, start=False)
    registry.start(ready=False)
    assert registry.process.wait() == 2
    assert f"http.tls: clients' authority {broken}: " in registry.log.read_text()
