"""Logins with ID tokens of an OpenID Connect issuer (`auth.oidc`): as a password, as a bearer token, for a token."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_server.auth.oidc import NOT_AGAIN_FOR
from tests.fixtures.issuer import Issuer, issuing
from tests.server.conftest import Serve
from tests.server.content import Repository
from tests.server.live import LiveRegistry, serving, until
from tests.server.pki import Authority

USERS = {"alice": "a-secret"}
POLICIES = [
    {"subjects": ["user:alice"], "repositories": ["**"], "role": "admin"},
    {"subjects": ["user:oidc:eve"], "repositories": ["eve/*"], "role": "writer"},
    {"subjects": ["group:oidc:dev"], "repositories": ["dev/*"], "role": "writer"},
    {"subjects": ["authenticated"], "repositories": ["shared/*"], "role": "reader"},
]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("registry"), settings(issuer), users=USERS, workers=2) as running:
        yield running


def settings(issuer: Issuer, /, **changes: Any) -> dict[str, Any]:
    oidc = {"issuer": issuer.url, "clientid": "registry.test", **changes}
    return {"auth": {"oidc": oidc}, "access": {"policies": POLICIES}}


def by_password(registry: LiveRegistry, token: str, user: str = "whoever") -> httpx.Client:
    return registry.client(user, token)


def by_bearer(registry: LiveRegistry, token: str) -> httpx.Client:
    client = registry.client()
    client.headers["authorization"] = f"Bearer {token}"
    return client


def by_token_flow(registry: LiveRegistry, token: str) -> httpx.Client:
    """As Docker does, with the ID token as the password of its login."""
    answer = by_password(registry, token).get("/auth/token").json()
    return by_bearer(registry, answer["token"])


WAYS = [by_password, by_bearer, by_token_flow]


class TestLogins:
    @pytest.mark.parametrize("way", WAYS)
    def test_whoever_has_an_id_token_is_who_it_says(self, registry: LiveRegistry, issuer: Issuer, way: Any) -> None:
        client = way(registry, issuer.mint(sub="eve", groups=["dev", "ops"]))
        assert client.get("/v2/").status_code == 200
        for name, status in [("eve/app", 202), ("dev/app", 202), ("other/app", 403), ("shared/app", 403)]:
            assert client.post(f"/v2/{name}/blobs/uploads/").status_code == status
        assert client.get("/v2/shared/app/tags/list").status_code == 404

    def test_a_user_there_is_not_the_one_of_that_name_here(self, registry: LiveRegistry, issuer: Issuer) -> None:
        client = by_bearer(registry, issuer.mint(sub="alice"))
        assert client.get("/v2/other/app/tags/list").status_code == 403

    def test_passwords_work_beside_it(self, registry: LiveRegistry) -> None:
        Repository(registry.client("alice", USERS["alice"]), "other/beside").push_image("v1")
        assert registry.client("alice", "wrong").get("/v2/").status_code == 401

    @pytest.mark.parametrize("way", [by_password, by_bearer])
    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "another"}, {"aud": None}, {"iss": "https://another.example.com"}, {"exp": 1}, {"exp": None},
            {"nbf": 2**40}, {"sub": None}, {"sub": ""},
        ],
    )  # fmt: skip
    def test_a_token_that_is_not_for_us_is_refused(
        self, registry: LiveRegistry, issuer: Issuer, way: Any, claims: dict[str, Any]
    ) -> None:
        token = issuer.mint(**{"sub": "eve", **claims})
        assert way(registry, token).get("/v2/").status_code == 401
        assert registry.client("whoever", token).get("/auth/token").status_code == 401

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_a_token_that_was_changed_is_refused(self, registry: LiveRegistry, issuer: Issuer, part: int) -> None:
        parts = issuer.mint(sub="eve").split(".")
        other = issuer.mint(sub="alice", nonce="x").split(".")
        parts[part] = other[part] if part else base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode()
        assert by_bearer(registry, ".".join(parts)).get("/v2/").status_code == 401

    def test_a_token_for_access_lasts_no_longer_than_the_login(self, registry: LiveRegistry, issuer: Issuer) -> None:
        client = by_password(registry, issuer.mint(sub="eve", expires_in=20))
        answer = client.get("/auth/token", params={"offline_token": "true"}).json()
        assert answer["expires_in"] <= 20 + 30  # and what clocks may differ by
        assert "refresh_token" not in answer

    def test_it_is_in_the_log_who_it_was(self, registry: LiveRegistry, issuer: Issuer) -> None:
        by_bearer(registry, issuer.mint(sub="seen")).get("/v2/")
        until(lambda: registry.entries(user="oidc:seen"), "the request is logged")


class TestClaims:
    def test_which_claims_are_names_is_the_configurations_to_say(self, serve: Serve, issuer: Issuer) -> None:
        changes = {"usernameclaim": "email", "groupsclaim": "roles", "prefix": ""}
        policies = [
            {"subjects": ["user:eve@example.com"], "repositories": ["eve/*"], "role": "reader"},
            {"subjects": ["group:Domain Users"], "repositories": ["group/*"], "role": "reader"},
        ]
        registry = serve({**settings(issuer, **changes), "access": {"policies": policies}})
        for claims, eve, group in [
            ({"email": "eve@example.com"}, 404, 403),
            ({"email": "eve@example.com", "email_verified": True}, 404, 403),
            ({"email": "eve@example.com", "email_verified": False}, 401, 401),
            ({"email": "bob@example.com", "roles": ["Domain Users"]}, 403, 404),
            ({"email": "bob@example.com", "roles": "Domain Users"}, 403, 404),
            ({"email": "bob@example.com", "roles": [1, None, {}], "groups": ["Domain Users"]}, 403, 403),
            ({"sub": "eve@example.com"}, 401, 401),
        ]:
            client = by_bearer(registry, issuer.mint(**claims))
            statuses = [client.get(f"/v2/{name}/app/tags/list").status_code for name in ("eve", "group")]
            assert statuses == [eve, group], claims


class TestKeys:
    def test_new_keys_are_fetched_when_a_token_names_them_and_old_ones_forgotten(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        with issuing(tmp_path / "issuer") as issuer:
            registry = serve(settings(issuer))
            old = issuer.mint(sub="eve")
            assert status(registry, old) == 200
            issuer.rotate(keep=0)
            new = issuer.mint(sub="eve")
            until(lambda: status(registry, new) == 200, "the new key is known")
            assert status(registry, old) == 401

    def test_tokens_with_made_up_keys_make_no_traffic(self, serve: Serve, tmp_path: Path) -> None:
        with issuing(tmp_path / "issuer") as issuer, issuing(tmp_path / "forger") as forger:
            registry = serve(settings(issuer))
            assert status(registry, issuer.mint(sub="eve")) == 200
            began = time.monotonic()
            for _ in range(20):
                forger.rotate(keep=0)
                assert status(registry, forger.mint(sub="eve", iss=issuer.url)) == 401
            assert issuer.asked_for_keys() <= 2 + (time.monotonic() - began) / NOT_AGAIN_FOR

    def test_who_is_known_goes_on_while_the_issuer_is_away(self, serve: Serve, tmp_path: Path) -> None:
        with issuing(tmp_path / "issuer", start=False) as issuer:
            registry = serve(settings(issuer), users=USERS)
            with issuer.running():
                known, same_key = issuer.mint(sub="eve"), issuer.mint(sub="bob")
                assert status(registry, known) == 200
                issuer.rotate()
                another_key = issuer.mint(sub="eve")
            assert status(registry, known) == 200
            assert status(registry, same_key) == 200

            def is_away() -> bool:
                refused = registry.fresh.get(f"{registry.url}/v2/", headers={"authorization": f"Bearer {another_key}"})
                return refused.status_code == 503 and int(refused.headers["retry-after"]) > 0

            until(is_away, "it is said that logins can't be checked")
            assert registry.client("alice", USERS["alice"]).get("/v2/").status_code == 200

    def test_a_registry_starts_without_its_issuer_and_finds_it_later(self, serve: Serve, tmp_path: Path) -> None:
        with issuing(tmp_path / "issuer", start=False) as issuer:
            registry = serve(settings(issuer))
            with issuer.running():
                token = issuer.mint(sub="eve")
            assert status(registry, token) == 503
            with issuer.running():
                fresh = issuer.mint(sub="eve")
                until(lambda: status(registry, fresh) == 200, "the issuer is found")

    def test_its_certificate_is_verified(self, serve: Serve, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        with issuing(tmp_path / "issuer", authority=authority) as issuer:
            token = issuer.mint(sub="eve")
            assert status(serve(settings(issuer, ca=str(authority.ca))), token) == 200
            stranger = serve(settings(issuer))
            assert status(stranger, token) == 503
            assert "certificate verify failed" in stranger.messages()

    def test_another_issuer_at_its_place_is_not_believed(self, serve: Serve, tmp_path: Path) -> None:
        with issuing(tmp_path / "issuer") as issuer:
            other = issuer.url.replace("127.0.0.1", "localhost")
            registry = serve(settings(issuer, issuer=other))
            assert status(registry, issuer.mint(sub="eve", iss=other)) == 503
            assert "says that it is another issuer; correct auth.oidc.issuer" in registry.messages()


def status(registry: LiveRegistry, token: str) -> int:
    return registry.fresh.get(f"{registry.url}/v2/", headers={"authorization": f"Bearer {token}"}).status_code
