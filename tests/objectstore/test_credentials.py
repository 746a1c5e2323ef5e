"""Who the registry is for an S3 server when its configuration has no keys, and whom it trusts."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.fixtures.tools import Need
from tests.objectstore.stores import KEY, SECRET, Store, store
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving, until
from tests.server.pki import Authority, Pair


@pytest.fixture
def s3(stores: Callable[[str], Store]) -> Store:
    """The store that tests share."""
    return stores("s3")


@contextmanager
def _serving(made: Store, folder: Path, *, keys: bool, environ: dict[str, str], **more: Any) -> Iterator[LiveRegistry]:
    storage = made.storage(f"/{folder.name}")
    if not keys:
        del storage["s3"]["accesskey"], storage["s3"]["secretkey"]
    storage["s3"] |= more
    settings = {"storage": storage, "health": {"storagedriver": {"interval": "500ms", "threshold": 1}}}
    with serving(folder / "registry", settings, environ=environ, start=False) as registry:
        yield registry


def test_keys_may_come_from_the_environment(s3: Store, tmp_path: Path) -> None:
    environ = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with _serving(s3, tmp_path, keys=False, environ=environ) as registry:
        Repository(registry.start().client(), "app").push_image("v1")


def test_a_pods_role_is_taken_by_its_web_identity(s3: Store, tmp_path: Path) -> None:
    """As EKS has it: a token in a file, and a service that gives keys for it."""
    token = tmp_path / "token"
    token.write_text("token of the pod")
    authority = Authority(tmp_path)
    with _token_service(authority.issue()) as (url, asked):
        environ = {
            "SSL_CERT_FILE": str(authority.ca),
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/registry",
            "AWS_ENDPOINT_URL_STS": url,
        }
        with _serving(s3, tmp_path, keys=False, environ=environ) as registry:
            Repository(registry.start().client(), "app").push_image("v1")
    assert asked[0]["WebIdentityToken"] == ["token of the pod"]
    assert asked[0]["RoleArn"] == ["arn:aws:iam::1:role/registry"]


class TestTLS:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path)

    @pytest.fixture
    def private(self, need: Need, tmp_path: Path, authority: Authority) -> Iterator[Store]:
        """A store with a certificate of an authority that nobody knows."""
        with store("s3", need, tmp_path / "store", certificate=authority.issue("store")) as made:
            yield made

    def test_its_authority_is_named_by_ssl_cert_file(
        self, private: Store, authority: Authority, tmp_path: Path
    ) -> None:
        with _serving(private, tmp_path, keys=True, environ={"SSL_CERT_FILE": str(authority.ca)}) as registry:
            Repository(registry.start().client(), "app").push_image("v1")

    def test_or_it_is_not_trusted(self, private: Store, tmp_path: Path) -> None:
        with _serving(private, tmp_path, keys=True, environ={}) as registry:
            registry.start(ready=False)
            until(lambda: "its certificate is not trusted (UnknownIssuer)" in registry.messages(), "the log tells why")

    def test_unless_that_is_switched_off(self, private: Store, tmp_path: Path) -> None:
        with _serving(private, tmp_path, keys=True, environ={}, skipverify=True) as registry:
            Repository(registry.start().client(), "app").push_image("v1")


@contextmanager
def _token_service(pair: Pair) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """STS for one role: its address, and what it was asked."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            asked.append(parse_qs(urlsplit(self.path).query) | parse_qs(body))
            keys = f"<AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            rest = "<SessionToken></SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>"
            name = "AssumeRoleWithWebIdentity"
            answer = (
                f"<{name}Response><{name}Result><Credentials>{keys}{rest}</Credentials></{name}Result></{name}Response>"
            )
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as service:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        service.socket = context.wrap_socket(service.socket, server_side=True)
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{service.server_port}", asked
        finally:
            service.shutdown()
            thread.join()
