"""Logins and policies as clients meet them: challenges, tokens, refusals, and files that change."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, error_codes, index
from tests.server.live import LiveRegistry, serving, until

USERS = {"admin": "a-secret", "ci": "c-secret", "dev": "d-secret"}
PUBLIC = [
    {"subjects": ["anonymous"], "repositories": ["public/**"], "actions": ["pull"]},
    {"subjects": ["authenticated"], "repositories": ["shared/*"], "role": "reader"},
    {"subjects": ["user:ci"], "repositories": ["public/**", "team/**"], "role": "writer"},
    {"subjects": ["user:admin"], "repositories": ["**"], "role": "admin"},
]
EVERYWHERE = ["public/app", "shared/app", "team/app", "team/deep/app", "secret/app"]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Whoever logs in may do everything, nobody else anything."""
    with serving(tmp_path_factory.mktemp("private"), users=USERS) as registry:
        yield registry


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Some repositories are for everyone to pull, and some users may do more."""
    folder = tmp_path_factory.mktemp("public")
    with serving(folder, {"access": {"policies": PUBLIC}}, users=USERS, workers=2) as registry:
        admin = registry.client("admin", USERS["admin"])
        for name in EVERYWHERE:
            Repository(admin, name).push_manifest(index(), "v1", OCI_INDEX)
        yield registry


class TestPrivate:
    @pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/v2/app/manifests/v1", "/v2/app/tags/list"])
    def test_without_a_login_there_is_a_challenge_and_nothing_else(self, private: LiveRegistry, path: str) -> None:
        response = private.client().get(path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Basic realm="Tests"'
        assert error_codes(response) == ["UNAUTHORIZED"]

    def test_a_challenge_keeps_the_version_header(self, private: LiveRegistry) -> None:
        """Old clients take a registry for one by it."""
        assert private.client().get("/v2/").headers["docker-distribution-api-version"] == "registry/2.0"

    def test_a_login_opens_everything(self, private: LiveRegistry) -> None:
        client = private.client("admin", USERS["admin"])
        assert client.get("/v2/").status_code == 200
        Repository(client, "app").push_image("v1")
        assert client.delete("/v2/app/manifests/v1").status_code == 202

    @pytest.mark.parametrize(
        "login", [("admin", "wrong"), ("admin", ""), ("nobody", "a-secret"), ("", ""), ("admin:a-secret", "")]
    )
    def test_a_wrong_login_is_refused_like_any_other(self, private: LiveRegistry, login: tuple[str, str]) -> None:
        response = private.client(*login).get("/v2/")
        assert response.status_code == 401
        assert response.json()["errors"][0]["message"] == "user name or password is wrong"

    @given(
        header=st.one_of(
            st.binary(max_size=40).map(lambda junk: b"Basic " + base64.b64encode(junk)),
            st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=40).map(str.encode),
            st.sampled_from([b"Basic", b"Basic !!", b"Bearer", b"Bearer a.b.c", b"Negotiate x"]),
        )
    )
    def test_no_header_gets_past(self, private: LiveRegistry, header: bytes) -> None:
        response = private.fresh.get(f"{private.url}/v2/", headers={b"authorization": header.strip()})
        assert response.status_code == 401

    def test_a_refused_push_is_told_so_even_when_it_is_large(self, private: LiveRegistry) -> None:
        response = private.client().put("/v2/app/manifests/v1", content=b"x" * (4 << 20))
        assert response.status_code == 401

    def test_health_needs_no_login(self, private: LiveRegistry) -> None:
        assert private.client().get("/healthz").status_code == 200
        assert private.client().get("/readyz").status_code == 200


class TestPublic:
    """Clients without a login need a token for nobody: a Docker client that meets `Basic` asks for a password."""

    def test_the_challenge_leads_to_the_token_endpoint(self, public: LiveRegistry) -> None:
        response = public.client().get("/v2/")
        assert response.status_code == 401
        realm, service = f"{public.url}/auth/token", public.address
        assert response.headers["www-authenticate"] == f'Bearer realm="{realm}",service="{service}"'

    def test_a_refusal_names_the_scope(self, public: LiveRegistry) -> None:
        challenge = public.client().get("/v2/secret/app/manifests/v1").headers["www-authenticate"]
        assert challenge.endswith(',scope="repository:secret/app:pull"')
        challenge = public.client().post("/v2/secret/app/blobs/uploads/").headers["www-authenticate"]
        assert challenge.endswith(',scope="repository:secret/app:pull,push"')
        challenge = public.client().delete("/v2/secret/app/manifests/v1").headers["www-authenticate"]
        assert challenge.endswith(',scope="repository:secret/app:delete"')

    def test_nobody_pulls_with_and_without_a_token(self, public: LiveRegistry) -> None:
        for client in (public.client(), _with_token(public)):
            assert client.get("/v2/public/app/manifests/v1").status_code == 200
            assert client.get("/v2/_catalog").json() == {"repositories": ["public/app"]}

    def test_nobody_with_a_token_passes_the_version_check_but_pushes_nothing(self, public: LiveRegistry) -> None:
        client = _with_token(public)
        assert client.get("/v2/").status_code == 200
        response = client.post("/v2/public/app/blobs/uploads/")
        assert response.status_code == 401
        assert ',error="insufficient_scope"' in response.headers["www-authenticate"]

    def test_a_login_gets_a_token_that_pushes(self, public: LiveRegistry) -> None:
        Repository(_with_token(public, "ci"), "public/app").push_image("pushed")
        assert public.client().get("/v2/public/app/manifests/pushed").status_code == 200

    def test_a_login_without_a_token_pushes_too(self, public: LiveRegistry) -> None:
        Repository(public.client("ci", USERS["ci"]), "public/app").push_image("pushed-by-basic")

    def test_a_wrong_login_gets_no_token(self, public: LiveRegistry) -> None:
        response = public.client("ci", "wrong").get("/auth/token")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Basic realm="Tests"'

    def test_a_token_is_one_in_both_of_its_fields_and_is_not_cached(self, public: LiveRegistry) -> None:
        response = public.client().get("/auth/token", params={"service": "x", "scope": "repository:public/app:pull"})
        answer = response.json()
        assert answer["token"] == answer["access_token"]
        assert answer["expires_in"] >= 60
        assert response.headers["cache-control"] == "no-store"

    def test_every_worker_takes_every_workers_tokens(self, public: LiveRegistry) -> None:
        for _ in range(20):
            with _with_token(public, "ci") as client:
                assert client.get("/v2/").status_code == 200
        token = _token(public, "ci")
        for _ in range(20):
            assert public.fresh.get(f"{public.url}/v2/", headers=_bearer(token)).status_code == 200

    @pytest.mark.parametrize("forge", ["none", "key", "audience", "expired", "without end", "text"])
    def test_a_forged_token_is_refused(self, public: LiveRegistry, forge: str) -> None:
        claims: dict[str, Any] = {"iss": "regatta", "aud": "regatta", "sub": "admin", "exp": time.time() + 60}
        key, algorithm = "k" * 32, "HS256"
        if forge == "none":
            key, algorithm = "", "none"
        if forge == "without end":
            del claims["exp"]
        token = "text" if forge == "text" else jwt.encode(claims, key, algorithm)
        if forge in ("audience", "expired"):
            # The server's own signature on something else.
            head, _, signature = _token(public, "admin").split(".")
            body = json.dumps({**claims, "aud": "other"} if forge == "audience" else {**claims, "exp": 1})
            token = f"{head}.{base64.urlsafe_b64encode(body.encode()).decode().rstrip('=')}.{signature}"
        response = public.fresh.get(f"{public.url}/v2/", headers=_bearer(token))
        assert response.status_code == 401
        assert 'error="invalid_token"' in response.headers["www-authenticate"]

    @pytest.mark.parametrize(
        ("user", "repository", "pull", "push", "delete"),
        [
            (None, "public/app", 200, 401, 401),
            (None, "shared/app", 401, 401, 401),
            (None, "secret/app", 401, 401, 401),
            ("dev", "public/app", 200, 403, 403),
            ("dev", "shared/app", 200, 403, 403),
            ("dev", "team/app", 403, 403, 403),
            ("ci", "public/app", 200, 202, 403),
            ("ci", "shared/app", 200, 403, 403),
            ("ci", "team/app", 200, 202, 403),
            ("ci", "team/deep/app", 200, 202, 403),
            ("ci", "secret/app", 403, 403, 403),
            ("admin", "secret/app", 200, 202, 404),
            ("admin", "team/deep/app", 200, 202, 404),
        ],
    )
    def test_policies_decide(
        self, public: LiveRegistry, user: str | None, repository: str, pull: int, push: int, delete: int
    ) -> None:
        client = public.client() if user is None else public.client(user, USERS[user])
        path = f"/v2/{repository}"
        assert client.get(f"{path}/manifests/v1").status_code == pull
        assert client.get(f"{path}/tags/list").status_code == pull
        assert client.get(f"{path}/referrers/sha256:{'0' * 64}").status_code == pull
        assert client.post(f"{path}/blobs/uploads/").status_code == push
        assert client.put(f"{path}/manifests/v1").status_code == (400 if push == 202 else push)
        assert client.delete(f"{path}/manifests/sha256:{'0' * 64}").status_code == delete
        assert client.delete(f"{path}/blobs/sha256:{'0' * 64}").status_code == delete

    def test_what_one_may_not_see_is_refused_alike_whether_it_is_there_or_not(self, public: LiveRegistry) -> None:
        client = public.client("dev", USERS["dev"])
        there, not_there = client.get("/v2/secret/app/manifests/v1"), client.get("/v2/secret/none/manifests/v1")
        assert there.status_code == not_there.status_code == 403
        assert there.content == not_there.content


def test_behind_a_proxy_the_challenge_has_the_external_url(serve: Serve) -> None:
    settings = {"http": {"host": "https://registry.example.com"}, "access": {"policies": PUBLIC}}
    challenge = serve(settings, users=USERS).client().get("/v2/").headers["www-authenticate"]
    assert challenge == 'Bearer realm="https://registry.example.com/auth/token",service="registry.example.com"'


@pytest.mark.parametrize("http2", [False, True])
def test_over_tls_the_challenge_has_the_port_and_the_scheme(serve: Serve, http2: bool) -> None:
    """HTTP/2 has no Host header, but an authority."""
    registry = serve({"access": {"policies": PUBLIC}}, users=USERS, tls=True)
    response = registry.client(http2=http2).get("/v2/")
    assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert response.headers["www-authenticate"].startswith(f'Bearer realm="https://{registry.address}/auth/token"')


def test_a_proxy_may_say_how_it_was_asked(public: LiveRegistry) -> None:
    headers = {"host": "registry.example.com", "x-forwarded-proto": "https"}
    challenge = public.client().get("/v2/", headers=headers).headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="https://registry.example.com/auth/token"')


@pytest.mark.parametrize("host", ['evil",scope="x', "a b", "x" * 300])
def test_a_host_that_is_none_stays_out_of_the_challenge(public: LiveRegistry, host: str) -> None:
    challenge = public.client().get("/v2/", headers={"host": host}).headers.get("www-authenticate", "")
    assert host not in challenge


def test_tokens_outlive_a_restart_when_there_is_a_secret(serve: Serve) -> None:
    registry = serve({"http": {"secret": "s" * 32}, "access": {"policies": PUBLIC}}, users=USERS)
    token = _token(registry, "ci")
    registry.stop()
    registry.start()
    assert registry.fresh.get(f"{registry.url}/v2/", headers=_bearer(token)).status_code == 200


class TestTheFileOfUsersChanges:
    def test_everyone_is_who_the_file_says_without_a_restart(self, serve: Serve) -> None:
        registry = serve(users={"stays": "s", "changes": "old", "goes": "g"}, workers=2)
        for user, password in (("stays", "s"), ("changes", "old"), ("goes", "g")):
            assert _logs_in(registry, user, password)  # and is remembered
        registry.write_users({"stays": "s", "changes": "new", "comes": "c"})
        right = {("stays", "s"): True, ("changes", "new"): True, ("comes", "c"): True}
        wrong = {("changes", "old"): False, ("goes", "g"): False}

        def followed() -> bool:
            assert _logs_in(registry, "stays", "s")
            return all(_logs_in(registry, *login) == expected for login, expected in (right | wrong).items())

        until(followed, "the server knows the new users")
        assert followed()

    def test_a_file_that_cannot_be_used_changes_nothing(self, serve: Serve) -> None:
        registry = serve(users={"user": "word"})
        registry.htpasswd.write_text("user:$apr1$not$bcrypt\n")
        until(lambda: "stay in force" in registry.messages(), "the server tells")
        assert "apr1" not in registry.log.read_text()
        assert _logs_in(registry, "user", "word")
        registry.htpasswd.unlink()
        assert _logs_in(registry, "user", "word")
        registry.write_users({"user": "other"})
        until(lambda: _logs_in(registry, "user", "other"), "the file is followed again")
        assert not _logs_in(registry, "user", "word")


def _logs_in(registry: LiveRegistry, user: str, password: str) -> bool:
    """At all workers alike."""
    return registry.statuses("/v2/", auth=(user, password)) == {200}


def _token(registry: LiveRegistry, user: str | None = None) -> str:
    client = registry.client() if user is None else registry.client(user, USERS[user])
    response = client.get("/auth/token")
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


def _with_token(registry: LiveRegistry, user: str | None = None) -> httpx.Client:
    client = registry.client()
    client.headers.update(_bearer(_token(registry, user)))
    return client


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
