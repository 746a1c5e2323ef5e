"""The registry's own token server as clients use it: scopes, OAuth2's form, refresh tokens, throttled guesses."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, index
from tests.server.live import LiveRegistry, serving, until

USERS = {"ci": "c-secret", "dev": "d-secret"}
POLICIES = [
    {"subjects": ["anonymous"], "repositories": ["public/**"], "actions": ["pull"]},
    {"subjects": ["user:ci"], "repositories": ["**"], "role": "writer"},
]
FORM = {"grant_type": "password", "service": "registry", "client_id": "tests"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    folder = tmp_path_factory.mktemp("tokens")
    with serving(folder, {"access": {"policies": POLICIES}}, users=USERS, workers=2) as registry:
        ci = registry.client("ci", USERS["ci"])
        for name in ("public/app", "team/app", "team/other"):
            Repository(ci, name).push_manifest(index(), "v1", OCI_INDEX)
        yield registry


def get(registry: LiveRegistry, user: str | None = "ci", **params: Any) -> dict[str, Any]:
    client = registry.client() if user is None else registry.client(user, USERS[user])
    response = client.get("/auth/token", params={"service": "registry", **params})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def post(registry: LiveRegistry, **form: str) -> httpx.Response:
    return registry.client().post("/auth/token", data={**FORM, **form})


def login(user: str = "ci") -> dict[str, str]:
    return {"username": user, "password": USERS[user]}


def ask(registry: LiveRegistry, token: str, path: str, method: str = "GET") -> httpx.Response:
    return registry.fresh.request(method, f"{registry.url}{path}", headers={"authorization": f"Bearer {token}"})


class TestScopes:
    """A token is good for what it was asked for, within what policies grant its owner."""

    def test_a_token_for_one_thing_is_for_nothing_else(self, registry: LiveRegistry) -> None:
        token = get(registry, scope="repository:team/app:pull")["token"]
        assert ask(registry, token, "/v2/").status_code == 200
        assert ask(registry, token, "/v2/team/app/manifests/v1").status_code == 200
        for path, method, scope in [
            ("/v2/team/app/blobs/uploads/", "POST", "repository:team/app:pull,push"),
            ("/v2/team/other/manifests/v1", "GET", "repository:team/other:pull"),
            ("/v2/_catalog", "GET", "registry:catalog:*"),
        ]:
            refused = ask(registry, token, path, method)
            assert refused.status_code == 401
            challenge = refused.headers["www-authenticate"]
            assert challenge.endswith(f',scope="{scope}",error="insufficient_scope"')

    def test_what_policies_do_not_grant_no_scope_gives(self, registry: LiveRegistry) -> None:
        token = get(registry, "dev", scope="repository:team/app:pull,push")["token"]
        assert ask(registry, token, "/v2/team/app/manifests/v1").status_code == 403

    @pytest.mark.parametrize("scopes", [["repository:team/app:pull repository:team/other:pull"],
                                        ["repository:team/app:pull", "repository:team/other:pull"]])  # fmt: skip
    def test_several_scopes_come_in_one_parameter_or_in_several(self, registry: LiveRegistry, scopes: Any) -> None:
        token = get(registry, scope=scopes)["token"]
        for name in ("app", "other"):
            assert ask(registry, token, f"/v2/team/{name}/tags/list").status_code == 200

    def test_a_scope_nobody_understands_gives_nothing(self, registry: LiveRegistry) -> None:
        token = get(registry, scope="all")["token"]
        assert ask(registry, token, "/v2/team/app/tags/list").status_code == 401

    def test_the_catalog_has_a_scope_of_its_own(self, registry: LiveRegistry) -> None:
        token = get(registry, scope="registry:catalog:*")["token"]
        listed = ask(registry, token, "/v2/_catalog").json()["repositories"]
        assert listed == ["public/app", "team/app", "team/other"]
        assert ask(registry, token, "/v2/team/app/tags/list").status_code == 401
        nobodys = get(registry, None, scope="registry:catalog:*")["token"]
        assert ask(registry, nobodys, "/v2/_catalog").json()["repositories"] == ["public/app"]

    def test_a_token_mounts_only_from_what_it_may_read(self, registry: LiveRegistry) -> None:
        blob = Repository(registry.client("ci", USERS["ci"]), "team/other").push_blob(b"to be mounted")
        path = f"/v2/team/app/blobs/uploads/?mount={blob}&from=team/other"
        one = get(registry, scope="repository:team/app:pull,push")["token"]
        both = get(registry, scope="repository:team/app:pull,push repository:team/other:pull")["token"]
        assert ask(registry, one, path, "POST").status_code == 202
        assert ask(registry, one, f"/v2/team/app/blobs/uploads/?mount={blob}", "POST").status_code == 202
        assert ask(registry, both, path, "POST").status_code == 201

    def test_too_many_are_refused(self, registry: LiveRegistry) -> None:
        client = registry.client("ci", USERS["ci"])
        response = client.get("/auth/token", params={"scope": ["repository:a:pull"] * 65})
        assert response.status_code == 400
        assert response.json()["error"] == "invalid_scope"


class TestOAuth2:
    def test_a_password_is_changed_for_a_token(self, registry: LiveRegistry) -> None:
        response = post(registry, **login(), scope="repository:team/app:pull")
        answer = response.json()
        assert response.headers["cache-control"] == "no-store"
        assert answer["expires_in"] >= 60
        assert answer["scope"] == "repository:team/app:pull"
        assert "refresh_token" not in answer
        assert ask(registry, answer["access_token"], "/v2/team/app/tags/list").status_code == 200

    def test_the_answer_says_what_of_the_scope_is_granted(self, registry: LiveRegistry) -> None:
        scope = "repository:public/app:pull,push repository:team/app:pull registry:catalog:*"
        assert post(registry, **login("dev"), scope=scope).json()["scope"] == (
            "repository:public/app:pull registry:catalog:*"
        )
        assert "scope" not in post(registry, **login("dev")).json()

    def test_a_refresh_token_gets_further_ones(self, registry: LiveRegistry) -> None:
        refresh = post(registry, **login(), access_type="offline").json()["refresh_token"]
        answer = post(registry, grant_type="refresh_token", refresh_token=refresh).json()
        assert answer["refresh_token"] == refresh
        assert ask(registry, answer["access_token"], "/v2/team/app/tags/list").status_code == 200
        assert ask(registry, refresh, "/v2/").status_code == 401

    @pytest.mark.parametrize(
        ("form", "status", "error"),
        [
            ({"username": "ci", "password": "wrong"}, 401, "invalid_grant"),
            ({"username": "nobody", "password": "wrong"}, 401, "invalid_grant"),
            ({}, 401, "invalid_grant"),
            ({"grant_type": "refresh_token", "refresh_token": "made up"}, 401, "invalid_grant"),
            ({"grant_type": "refresh_token"}, 401, "invalid_grant"),
            ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type"),
            ({"grant_type": ""}, 400, "invalid_request"),
            ({"client_id": ""}, 400, "invalid_request"),
            ({"username": "ci", "password": "c-secret", "scope": "repository:a:pull " * 65}, 400, "invalid_scope"),
        ],
    )
    def test_what_gets_no_token(self, registry: LiveRegistry, form: dict[str, str], status: int, error: str) -> None:
        response = post(registry, **form)
        assert response.status_code == status
        assert response.json()["error"] == error
        assert response.json()["errors"][0]["message"]

    @pytest.mark.parametrize("body", [b"\xff=1", b"&".join([b"a=1"] * 1000), b"x" * (65 << 10), b""])
    def test_a_form_that_is_none(self, registry: LiveRegistry, body: bytes) -> None:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert registry.client().post("/auth/token", content=body, headers=headers).status_code == 400
        assert registry.client().post("/auth/token", json={}).status_code == 400


class TestRefreshTokens:
    def test_only_who_asks_for_one_and_has_a_password_gets_one(self, registry: LiveRegistry) -> None:
        assert "refresh_token" not in get(registry)
        assert "refresh_token" not in get(registry, None, offline_token="true")
        assert get(registry, offline_token="true")["refresh_token"]

    def test_they_end_with_the_password_and_so_do_tokens_for_access(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": POLICIES}}, users=USERS, workers=2)
        answer = get(registry, offline_token="true")
        registry.write_users({**USERS, "ci": "another"})

        def ended() -> bool:
            access = registry.statuses("/v2/", headers={"authorization": f"Bearer {answer['token']}"})
            form = {**FORM, "grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
            refreshed = registry.statuses("/auth/token", "POST", data=form)
            return access == refreshed == {401}

        until(ended, "no worker takes the tokens any more")


class TestThrottling:
    def test_guesses_end_in_429_while_others_and_known_logins_go_on(self, serve: Serve) -> None:
        registry = serve({"http": {"trustedproxies": ["127.0.0.0/8"]}}, users=USERS)
        assert _status(registry, "ci", "c-secret", "198.51.100.1") == 200
        refused = next(answer for answer in _guesses(registry, "198.51.100.1") if answer.status_code != 401)
        assert refused.status_code == 429
        assert refused.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        assert _status(registry, "ci", "c-secret", "198.51.100.1") == 200
        assert _status(registry, "dev", "d-secret", "198.51.100.2") == 200
        assert registry.metric("regatta_authentication_failures_total", reason="throttled") > 0

    def test_nobody_speaks_for_another_address_but_a_trusted_proxy(self, serve: Serve) -> None:
        registry = serve(users=USERS)
        guesses = (
            _status(registry, "ci", f"guess {number}", f"198.51.100.{number % 250}") for number in itertools.count()
        )
        until(lambda: next(guesses) == 429, "all count against the address they really come from")
        assert "name it in http.trustedproxies" in registry.messages()


def _guesses(registry: LiveRegistry, address: str) -> Iterator[httpx.Response]:
    for number in itertools.count():
        yield _log_in(registry, "ci", f"guess {number}", address)


def _log_in(registry: LiveRegistry, user: str, password: str, address: str) -> httpx.Response:
    return registry.fresh.get(f"{registry.url}/v2/", headers=_from(address), auth=(user, password))


def _status(registry: LiveRegistry, user: str, password: str, address: str) -> int:
    return _log_in(registry, user, password, address).status_code


def _from(address: str) -> dict[str, str]:
    """As a proxy adds it to what a client made up."""
    return {"x-forwarded-for": f"203.0.113.77, {address}"}


def test_a_registry_without_logins_issues_no_tokens(serve: Serve) -> None:
    client = serve().client()
    for response in (client.get("/auth/token"), client.post("/auth/token", data={**FORM, **login()})):
        assert response.status_code == 403


def test_a_token_is_signed_by_a_key_that_is_in_no_token(registry: LiveRegistry) -> None:
    head = jwt.get_unverified_header(get(registry)["token"])
    assert head == {"alg": "HS256", "typ": "JWT"}
