"""How the cache logs in to upstreams: Basic, tokens, helpers; and who gets to see the login."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from registry_server.auth import hash_password
from registry_server.proxy.login import Challenge
from tests.fixtures.processes import free_port, server
from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.live import LiveRegistry
from tests.server.meddler import Meddler

USER, PASSWORD = "cache", "pa55:wörd"


@pytest.fixture
def private(serve: Serve) -> LiveRegistry:
    """A registry of ours that nobody gets into without a login."""
    return serve(users={USER: PASSWORD})


def cached(serve: Serve, url: str, name: str, **settings: Any) -> Repository:
    """A repository of a cache of the registry at `url`."""
    return Repository(serve({"proxy": {"remoteurl": url, **settings}}).client(), name)


LOGIN = {"username": USER, "password": PASSWORD}


class TestBasic:
    def test_a_private_upstream_is_pulled_from_with_the_login(self, serve: Serve, private: LiveRegistry) -> None:
        upstream = Repository(private.client(USER, PASSWORD), "app")
        manifest = upstream.push_image("1", layers=[b"layer"])
        app = cached(serve, private.url, "app", **LOGIN)
        assert app.get_manifest("1").content == manifest
        assert app.get_blob(digest_of(b"layer")).content == b"layer"

    @pytest.mark.parametrize("login", [{}, LOGIN | {"password": "wrong"}], ids=["none", "wrong"])
    def test_without_the_right_one_the_reason_is_told(
        self, serve: Serve, private: LiveRegistry, login: dict[str, str]
    ) -> None:
        Repository(private.client(USER, PASSWORD), "app").push_image("1")
        response = cached(serve, private.url, "app", **login).get_manifest("1")
        (error,) = response.json()["errors"]
        assert (response.status_code, error["code"]) == (403, "DENIED")
        assert error["message"] == f"{private.address} refuses app to this cache"

    def test_it_is_sent_from_then_on_without_being_asked(self, serve: Serve, private: LiveRegistry) -> None:
        Repository(private.client(USER, PASSWORD), "app").push_image("1")
        with Meddler(private.address) as meddler:
            app = cached(serve, meddler.url, "app", **LOGIN)
            for _ in range(3):
                assert app.get_manifest("1").status_code == 200
            assert [("Authorization" in asked.headers) for asked in meddler.asked] == [False, True, True, True]


class TestTokens:
    def test_ours_are_had_with_a_login_and_without(self, serve: Serve) -> None:
        """A registry that anyone may pull from in part answers with a Bearer challenge."""
        policies = [
            {"subjects": ["anonymous"], "repositories": ["public/**"], "actions": ["pull"]},
            {"subjects": [f"user:{USER}"], "repositories": ["**"], "role": "admin"},
        ]
        registry = serve({"access": {"policies": policies}}, users={USER: PASSWORD})
        names = ("public/app", "private/app")
        manifests = {name: Repository(registry.client(USER, PASSWORD), name).push_image("1") for name in names}
        with_login = serve({"proxy": {"remoteurl": registry.url, **LOGIN}}).client()
        without = serve({"proxy": {"remoteurl": registry.url}}).client()
        for name in names:
            assert Repository(with_login, name).get_manifest("1").content == manifests[name]
        assert Repository(without, "public/app").get_manifest("1").content == manifests["public/app"]
        assert Repository(without, "private/app").get_manifest("1").status_code == 403

    def test_distribution_s_are_had_from_its_token_server_and_used_again(
        self, serve: Serve, distribution: Path, tmp_path: Path
    ) -> None:
        with _token_server() as tokens:
            (tmp_path / "jwks.json").write_text(json.dumps(tokens.jwks))
            auth = {
                "token": {
                    "realm": f"{tokens.url}/token",
                    "service": "registry.test",
                    "issuer": "tests",
                    "jwks": str(tmp_path / "jwks.json"),
                }
            }
            with _distribution(distribution, tmp_path, auth) as url:
                token = tokens.issue("repository:app:pull,push")
                manifest = _push(url, "app", {"Authorization": f"Bearer {token}"})
                app = cached(serve, url, "app", **LOGIN)
                for _ in range(3):
                    assert app.get_manifest("1").content == manifest
                    assert app.get_blob(digest_of(b"{}")).content == b"{}"
            assert tokens.asked == [("repository:app:pull", f"{USER}:{PASSWORD}")]

    def test_a_login_that_its_token_server_refuses(self, serve: Serve, distribution: Path, tmp_path: Path) -> None:
        with _token_server() as tokens:
            (tmp_path / "jwks.json").write_text(json.dumps(tokens.jwks))
            realm = {"realm": f"{tokens.url}/token", "service": "s", "issuer": "tests"}
            auth = {"token": {**realm, "jwks": str(tmp_path / "jwks.json")}}
            with _distribution(distribution, tmp_path, auth) as url:
                response = cached(serve, url, "app", username="other", password="x").get_manifest("1")
        assert response.status_code == 403
        assert "refuses a token to this cache" in response.json()["errors"][0]["message"]


def test_distribution_with_htpasswd(serve: Serve, distribution: Path, tmp_path: Path) -> None:
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(f"{USER}:{hash_password('secret', cost=4)}\n")
    with _distribution(distribution, tmp_path, {"htpasswd": {"realm": "Tests", "path": str(htpasswd)}}) as url:
        basic = base64.b64encode(f"{USER}:secret".encode()).decode()
        manifest = _push(url, "app", {"Authorization": f"Basic {basic}"})
        app = cached(serve, url, "app", username=USER, password="secret")
        assert app.get_manifest("1").content == manifest
        assert app.get_blob(digest_of(b"{}")).content == b"{}"
        assert app.tags() == ["1"]


class TestHelpers:
    def test_a_program_gives_the_login(self, serve: Serve, private: LiveRegistry, tmp_path: Path) -> None:
        manifest = Repository(private.client(USER, PASSWORD), "app").push_image("1")
        helper, calls = _helper(tmp_path, {"ServerURL": private.address, "Username": USER, "Secret": PASSWORD})
        app = cached(serve, private.url, "app", exec={"command": str(helper)})
        for _ in range(2):
            assert app.get_manifest("1").content == manifest
        assert calls.read_text() == f"get {private.address}\n", "it is asked once, for the host"

    def test_and_is_asked_again_when_its_lifetime_is_over(
        self, serve: Serve, private: LiveRegistry, tmp_path: Path
    ) -> None:
        Repository(private.client(USER, PASSWORD), "app").push_image("1")
        helper, calls = _helper(tmp_path, {"Username": USER, "Secret": PASSWORD})
        app = cached(serve, private.url, "app", exec={"command": str(helper), "lifetime": "0s"})
        for _ in range(3):
            assert app.get_manifest("1").status_code == 200
        assert len(calls.read_text().splitlines()) >= 3

    def test_one_that_fails_is_named_in_the_log_without_what_it_said(
        self, serve: Serve, private: LiveRegistry, tmp_path: Path
    ) -> None:
        helper = tmp_path / "helper"
        helper.write_text("#!/bin/sh\necho s3cret; exit 1\n")
        helper.chmod(0o755)
        cache = serve({"proxy": {"remoteurl": private.url, "exec": {"command": str(helper)}}})
        assert Repository(cache.client(), "app").get_manifest("1").status_code == 403
        assert f"proxy.exec: {helper} gave no login (exit code 1)" in cache.messages()
        assert "s3cret" not in cache.log.read_text()


class TestSecrecy:
    def test_a_redirect_to_another_host_gets_no_login(self, serve: Serve, private: LiveRegistry) -> None:
        upstream = Repository(private.client(USER, PASSWORD), "app")
        digest = upstream.push_blob(b"content")
        public = serve()
        Repository(public.client(), "app").push_blob(b"content")
        with Meddler(private.address) as meddler, Meddler(public.address) as elsewhere:
            app = cached(serve, meddler.url, "app", **LOGIN)
            app.get_manifest("1")  # and from now on the login is sent without being asked for
            location = {"Location": f"{elsewhere.url}/v2/app/blobs/{digest}?signature=a%2Fb%3D"}
            meddler.harm("/blobs/", status=307, headers=location)
            assert app.get_blob(digest).content == b"content"
            (asked,) = elsewhere.asked
            assert "Authorization" not in asked.headers
            assert asked.path.endswith("?signature=a%2Fb%3D"), "a signed address is asked for as it is"
            assert "Authorization" in meddler.asked[-1].headers

    def test_an_endless_redirect_ends(self, serve: Serve, private: LiveRegistry) -> None:
        with Meddler(private.address) as meddler:
            meddler.harm(".", status=307, headers={"Location": "/v2/app/manifests/1"})
            assert cached(serve, meddler.url, "app").get_manifest("1").status_code == 503
            assert meddler.count(".") == 6

    def test_no_secret_is_logged(self, serve: Serve, private: LiveRegistry) -> None:
        Repository(private.client(USER, PASSWORD), "app").push_image("1")
        cache = serve({"log": {"level": "debug"}, "proxy": {"remoteurl": private.url, **LOGIN}})
        assert Repository(cache.client(), "app").get_manifest("1").status_code == 200
        said = cache.log.read_text()
        assert PASSWORD not in said
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in said


class TestTLS:
    def test_an_upstream_with_a_ca_of_its_own(self, serve: Serve) -> None:
        registry = serve(tls=True)
        assert registry.authority is not None
        manifest = Repository(registry.client(), "app").push_image("1")
        assert cached(serve, registry.url, "app", ca=str(registry.authority.ca)).get_manifest("1").content == manifest

    def test_one_that_is_not_trusted_gets_no_login(self, serve: Serve) -> None:
        registry = serve(tls=True)
        cache = serve({"proxy": {"remoteurl": registry.url, **LOGIN}})
        assert Repository(cache.client(), "app").get_manifest("1").status_code == 503
        assert "certificate verify failed" in cache.messages().lower()


def test_the_environment_s_proxy_is_used(serve: Serve) -> None:
    registry = serve()
    manifest = Repository(registry.client(), "app").push_image("1")
    with Meddler(registry.address) as proxy:
        environ = {"http_proxy": proxy.url, "no_proxy": ""}
        cache = serve({"proxy": {"remoteurl": registry.url}}, environ=environ)
        assert Repository(cache.client(), "app").get_manifest("1").content == manifest
        assert [asked.path for asked in proxy.asked] == [f"{registry.url}/v2/app/manifests/1"]


def test_a_place_of_blobs_that_is_away_does_not_keep_from_manifests(serve: Serve) -> None:
    registry = serve()
    upstream = Repository(registry.client(), "app")
    digest = upstream.push_blob(b"content")
    manifest = upstream.push_image("1")
    with Meddler(registry.address) as meddler:
        app = cached(serve, meddler.url, "app")
        meddler.harm("/blobs/", status=307, headers={"Location": f"http://127.0.0.1:{free_port()}/blob"})
        assert app.get_blob(digest).status_code == 503
        assert app.get_manifest("1").content == manifest


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="Tests"'], Challenge(None)),
        (["basic"], Challenge(None)),
        (
            ['Bearer realm="https://auth.test/token",service="registry.test",scope="repository:app:pull"'],
            Challenge(URL("https://auth.test/token"), "registry.test"),
        ),
        (["Bearer service=s , realm=https://a/t"], Challenge(URL("https://a/t"), "s")),
        (['Basic realm="x"', 'Bearer realm="https://a/t"'], Challenge(URL("https://a/t"))),
        (['Basic realm="x", Bearer realm="https://a/t?x=1,2",service="s"'], Challenge(URL("https://a/t?x=1,2"), "s")),
        (['Bearer service="s"'], None),
        (["Negotiate"], None),
        ([], None),
    ],
)
def test_challenges_are_read_as_servers_write_them(headers: list[str], expected: Challenge | None) -> None:
    assert Challenge.read(headers) == expected


class _Tokens:
    """What a token server was asked for, and its keys."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    @property
    def jwks(self) -> dict[str, Any]:
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**key, "kid": "1", "use": "sig", "alg": "ES256"}]}

    def issue(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        claims = {"iss": "tests", "sub": USER, "aud": "registry.test", "nbf": now - 10, "iat": now, "exp": now + 300}
        return jwt.encode({**claims, "access": access}, self._key, "ES256", {"kid": "1"})


@contextmanager
def _token_server() -> Iterator[_Tokens]:
    """A token server as distribution's specification has it: logins in, signed permissions out."""
    tokens = _Tokens()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = base64.b64decode(self.headers.get("Authorization", "Basic ")[6:]).decode()
            (scope,) = parse_qs(urlsplit(self.path).query)["scope"]
            tokens.asked.append((scope, login))
            right = login == f"{USER}:{PASSWORD}"
            answer = json.dumps({"token": tokens.issue(scope), "expires_in": 300} if right else {}).encode()
            self.send_response_only(200 if right else 401)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        tokens.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield tokens
        http.shutdown()
        thread.join()


@contextmanager
def _distribution(program: Path, folder: Path, auth: dict[str, Any]) -> Iterator[str]:
    port = free_port()
    config = folder / "distribution.yml"
    storage = {"filesystem": {"rootdirectory": str(folder / "distribution")}}
    config.write_text(
        json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}, "auth": auth})
    )
    with server(program, "serve", config, log=folder / "distribution.log") as running:
        running.await_port("127.0.0.1", port)
        yield f"http://127.0.0.1:{port}"


def _push(url: str, name: str, headers: dict[str, str]) -> bytes:
    """Pushes an image to distribution, which has its own idea of `Location`."""
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        return Repository(client, name).push_image("1", layers=[])


def _helper(folder: Path, answer: dict[str, str]) -> tuple[Path, Path]:
    """A credential helper, and the file in which it notes what it was asked."""
    helper, calls = folder / "docker-credential-test", folder / "calls"
    (folder / "answer.json").write_text(json.dumps(answer))
    helper.write_text(f'#!/bin/sh\nread host\necho "$1 $host" >> "{calls}"\ncat "{folder / "answer.json"}"\n')
    helper.chmod(0o755)
    return helper, calls
