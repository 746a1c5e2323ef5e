"""TLS: what is offered, and that a certificate changes under load without a failed request."""

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.http2 import GoneAway, HTTP2Connection
from tests.server.live import LiveRegistry, serving, until


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("secure"), tls=True) as registry:
        yield registry


class TestOffer:
    @pytest.mark.parametrize("http2", [False, True])
    def test_images_are_pushed_and_pulled(self, secure: LiveRegistry, http2: bool) -> None:
        repository = Repository(secure.client(http2=http2), f"app{http2}".lower())
        content = b"x" * 3_000_000
        manifest = repository.push_image("v1", layers=[content])
        response = repository.get_blob(digest_of(content))
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert response.content == content
        assert repository.get_manifest("v1").content == manifest
        head = repository.client.head(f"{repository.path}/blobs/{digest_of(content)}")
        assert head.headers["content-length"] == "3000000"
        assert repository.get_blob(digest_of(content), range="bytes=5-9").content == b"xxxxx"
        assert repository.client.get("/v2/").headers.get("connection") is None

    def test_a_client_that_does_not_trust_the_authority_gets_nothing(self, secure: LiveRegistry) -> None:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"), httpx.Client() as client:
            client.get(f"{secure.url}/v2/")

    def test_plain_http_gets_nothing(self, secure: LiveRegistry) -> None:
        with pytest.raises(httpx.TransportError), httpx.Client() as client:
            client.get(f"http://{secure.address}/v2/")
        assert secure.client().get("/v2/").status_code == 200

    @pytest.mark.parametrize(("version", "spoken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)])
    def test_old_versions_are_not_spoken(self, secure: LiveRegistry, version: ssl.TLSVersion, spoken: bool) -> None:
        assert (_handshake(secure, version) is not None) == spoken

    def test_the_oldest_version_can_be_raised(self, serve: Serve) -> None:
        registry = serve({"http": {"tls": {"minimumtls": "tls1.3"}}}, tls=True)
        assert _handshake(registry, ssl.TLSVersion.TLSv1_2) is None
        assert _handshake(registry, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"

    def test_http2_can_be_switched_off(self, serve: Serve) -> None:
        registry = serve({"http": {"http2": {"disabled": True}}}, tls=True)
        assert registry.client(http2=True).get("/v2/").http_version == "HTTP/1.1"

    def test_the_debug_port_speaks_plain_http(self, secure: LiveRegistry) -> None:
        assert secure.debug("/readyz").status_code == 200

    def test_a_client_that_never_shakes_hands_holds_up_nobody(self, secure: LiveRegistry) -> None:
        with ExitStack() as silent:
            for _ in range(50):
                silent.enter_context(secure.connect())
            assert secure.client().get("/v2/").status_code == 200


class TestChange:
    def test_no_request_fails_and_every_client_gets_the_new_certificate(self, serve: Serve) -> None:
        """On new connections and on those that stay open, over HTTP/1.1 and HTTP/2, and during an upload."""
        registry = serve(tls=True, workers=2)
        Repository(registry.client(), "app").push_image("v1", layers=[])
        before = _certificate(registry)
        load = Load(
            {
                "new connections": lambda: _new_connections(registry),
                "kept connections": lambda: _kept_connections(registry),
                "HTTP/2": lambda: _http2(registry),
            }
        )
        content = b"x" * 100_000
        with load, _tls(registry) as upload:
            location = Repository(registry.client(), "app").start_upload()
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            upload.sendall(head.encode() + content[:50_000])
            load.await_certificates({before})
            assert registry.authority is not None
            for _ in range(2):  # the second one comes while clients are still leaving the first
                registry.authority.issue()
                until(lambda: _certificate(registry) == _read_certificate(registry), "the new certificate is served")
            after = _read_certificate(registry)
            assert after != before
            load.await_certificates({after})
            upload.sendall(content[50_000:])
            assert upload.recv(4096).startswith(b"HTTP/1.1 202")
        assert load.failures == []
        assert all(count > 20 for count in load.requests.values()), load.requests

    def test_a_connection_that_is_kept_is_told_to_close_before_it_is(self, serve: Serve) -> None:
        """A client that was not told might send its next request into a closing connection."""
        registry = serve(tls=True)
        before = _certificate(registry)
        with httpx.Client(verify=registry.trust()) as client:
            assert "connection" not in client.get(f"{registry.url}/v2/").headers
            assert registry.authority is not None
            registry.authority.issue()
            until(lambda: _certificate(registry) != before, "the new certificate is served")
            assert client.get(f"{registry.url}/v2/").headers["connection"] == "close"
            assert "connection" not in client.get(f"{registry.url}/v2/").headers

    def test_a_pair_that_does_not_match_changes_nothing(self, serve: Serve) -> None:
        registry = serve(tls=True)
        before = _certificate(registry)
        assert registry.pair is not None
        assert registry.authority is not None
        key = registry.pair.key.read_bytes()
        registry.authority.issue()
        new_key = registry.pair.key.read_bytes()
        registry.pair.key.write_bytes(key)
        until(lambda: "serving the previous certificate" in registry.messages(), "the server tells")
        assert _certificate(registry) == before
        registry.pair.key.write_bytes(new_key)
        until(lambda: _certificate(registry) == _read_certificate(registry) != before, "the new pair is served")

    def test_files_that_are_links_are_followed(self, serve: Serve, tmp_path: Path) -> None:
        """As in a volume of a Kubernetes Secret, where one link switches all files at once."""
        registry = serve(tls=True, start=False)
        assert registry.pair is not None
        assert registry.authority is not None
        for name in ("first", "second"):
            pair = registry.authority.issue(name)
            (tmp_path / name).mkdir()
            pair.certificate.rename(tmp_path / name / "server.crt")
            pair.key.rename(tmp_path / name / "server.key")
        (tmp_path / "data").symlink_to("first")
        for path in (registry.pair.certificate, registry.pair.key):
            path.unlink()
            path.symlink_to(tmp_path / "data" / path.name)
        registry.start()
        before = _certificate(registry)
        (tmp_path / "new").symlink_to("second")
        (tmp_path / "new").rename(tmp_path / "data")
        until(lambda: _certificate(registry) == _read_certificate(registry) != before, "the new pair is served")

    def test_a_stop_soon_after_a_change_waits_for_requests_on_both(self, serve: Serve) -> None:
        registry = serve(tls=True)
        content = b"x" * 100_000
        location = Repository(registry.client(), "app").start_upload()
        before = _certificate(registry)
        with _tls(registry) as upload:
            path = f"{location}?digest={digest_of(content)}"
            head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            upload.sendall(head.encode() + content[:50_000])
            until(lambda: registry.metric("regatta_http_requests_in_flight") == 1, "the request is in flight")
            assert registry.authority is not None
            registry.authority.issue()
            until(lambda: _certificate(registry) != before, "the new pair is served")
            registry.signal_stop()
            until(lambda: "stopping" in registry.messages(), "the server is stopping")
            upload.sendall(content[50_000:])
            assert upload.recv(4096).startswith(b"HTTP/1.1 201")
        assert registry.process.wait() == 0


class Load:
    """Clients that ask on and on, each in a thread; a client yields the certificate it saw at each request."""

    def __init__(self, clients: dict[str, Callable[[], Generator[bytes]]]) -> None:
        self.requests: Counter[str] = Counter()
        self.failures: list[str] = []
        self._seen: dict[str, bytes] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=item) for item in clients.items()]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def await_certificates(self, expected: set[bytes]) -> None:
        """Waits until the last request of each client has met one of these."""
        until(
            lambda: self.failures or (len(self._seen) == len(self._threads) and set(self._seen.values()) <= expected),
            "all clients see the certificate",
        )
        assert self.failures == []

    def _ask(self, name: str, client: Callable[[], Generator[bytes]]) -> None:
        try:
            with closing(client()) as certificates:
                for certificate in certificates:
                    self._seen[name] = certificate
                    self.requests[name] += 1
                    if self._over.is_set():
                        return
        except Exception as error:  # noqa: BLE001, all of them are failures
            self.failures.append(f"{name}: {error!r}")


_PATH = "/v2/app/manifests/v1"


def _new_connections(registry: LiveRegistry) -> Generator[bytes]:
    trust = registry.trust()
    while True:
        with httpx.Client(verify=trust) as client:
            yield _ask(client, registry)


def _kept_connections(registry: LiveRegistry) -> Generator[bytes]:
    with httpx.Client(verify=registry.trust()) as client:
        while True:
            yield _ask(client, registry)


def _ask(client: httpx.Client, registry: LiveRegistry) -> bytes:
    with client.stream("GET", f"{registry.url}{_PATH}") as response:
        assert response.status_code == 200
        certificate: bytes = response.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(True)
        response.read()
        return certificate


def _http2(registry: LiveRegistry) -> Generator[bytes]:
    trust = registry.trust()
    assert isinstance(trust, ssl.SSLContext)
    while True:
        with closing(HTTP2Connection(registry.host, registry.port, trust)) as connection, suppress(GoneAway):
            while True:
                status, body = connection.get(_PATH)
                assert status == 200
                assert body
                yield connection.certificate


def _tls(registry: LiveRegistry) -> ssl.SSLSocket:
    trust = registry.trust()
    assert isinstance(trust, ssl.SSLContext)
    return trust.wrap_socket(registry.connect(), server_hostname=registry.host)


def _certificate(registry: LiveRegistry) -> bytes:
    """What a new connection gets."""
    with _tls(registry) as connection:
        return connection.getpeercert(binary_form=True) or b""


def _read_certificate(registry: LiveRegistry) -> bytes:
    """What is in the file."""
    assert registry.pair is not None
    return ssl.PEM_cert_to_DER_cert(registry.pair.certificate.read_text())


def _handshake(registry: LiveRegistry, version: ssl.TLSVersion) -> str | None:
    """The protocol that is spoken with a client that speaks one version only."""
    trust = registry.trust()
    assert isinstance(trust, ssl.SSLContext)
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1") if version < ssl.TLSVersion.TLSv1_2 else ExitStack():
        trust.minimum_version = trust.maximum_version = version
    try:
        with trust.wrap_socket(registry.connect(), server_hostname=registry.host) as connection:
            return connection.version()
    except (TimeoutError, ssl.SSLError, ConnectionError):
        return None
