"""A token server decides (`auth.token`): what its tokens open, how clients are sent there, and keys that change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.issuer import ISSUER, SERVICE, Issuer, issuing
from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, error_codes, index
from tests.server.live import LiveRegistry, serving, until


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("registry"), settings(issuer), workers=2) as running:
        yield running


def settings(issuer: Issuer, **changes: Any) -> dict[str, Any]:
    token = {"realm": issuer.realm, "service": SERVICE, "issuer": ISSUER, "jwks": str(issuer.jwks), **changes}
    return {"auth": {"token": token}}


def bearing(registry: LiveRegistry, token: str) -> httpx.Client:
    client = registry.client()
    client.headers["authorization"] = f"Bearer {token}"
    return client


def granting(issuer: Issuer, **actions: str) -> str:
    """A token for repositories below `team/`, and the catalog."""
    access = [
        {"type": "registry", "name": name, "actions": ["*"]}
        if name == "catalog"
        else {"type": "repository", "name": f"team/{name}", "actions": granted.split(",")}
        for name, granted in actions.items()
    ]
    return issuer.mint(iss=ISSUER, sub="ci", access=access)


class TestChallenge:
    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [
            ("GET", "/v2/", ""),
            ("GET", "/v2/team/app/manifests/v1", ',scope="repository:team/app:pull"'),
            ("PUT", "/v2/team/app/manifests/v1", ',scope="repository:team/app:pull,push"'),
            ("DELETE", "/v2/team/app/manifests/v1", ',scope="repository:team/app:delete"'),
            ("GET", "/v2/_catalog", ',scope="registry:catalog:*"'),
        ],
    )
    def test_clients_are_sent_to_the_token_server(
        self, registry: LiveRegistry, issuer: Issuer, method: str, path: str, scope: str
    ) -> None:
        response = registry.client().request(method, path)
        assert response.status_code == 401
        assert error_codes(response) == ["UNAUTHORIZED"]
        assert response.headers["www-authenticate"] == f'Bearer realm="{issuer.realm}",service="{SERVICE}"{scope}'

    def test_with_a_password_as_well(self, registry: LiveRegistry) -> None:
        response = registry.client("ci", "word").get("/v2/")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].endswith(',error="invalid_token"')

    def test_a_token_for_too_little_is_told_so(self, registry: LiveRegistry, issuer: Issuer) -> None:
        response = bearing(registry, granting(issuer, app="pull")).post("/v2/team/app/blobs/uploads/")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].endswith(
            ',scope="repository:team/app:pull,push",error="insufficient_scope"'
        )

    def test_the_server_may_be_at_the_same_host(self, serve: Serve, issuer: Issuer) -> None:
        registry = serve(settings(issuer, autoredirect=True, autoredirectpath="/tokens/here"))
        headers = {"host": "registry.example.com", "x-forwarded-proto": "https"}
        challenge = registry.client().get("/v2/", headers=headers).headers["www-authenticate"]
        assert challenge == f'Bearer realm="https://registry.example.com/tokens/here",service="{SERVICE}"'

    def test_the_registry_issues_no_tokens_itself(self, registry: LiveRegistry) -> None:
        assert registry.client().get("/auth/token").status_code == 403


class TestAccess:
    def test_a_token_opens_what_it_says_and_nothing_else(self, registry: LiveRegistry, issuer: Issuer) -> None:
        writer = Repository(bearing(registry, granting(issuer, app="pull,push")), "team/app")
        digest = writer.push_manifest(index(), "v1", OCI_INDEX)
        reader = bearing(registry, granting(issuer, app="pull"))
        assert reader.get("/v2/").status_code == 200
        assert reader.get("/v2/team/app/manifests/v1").status_code == 200
        assert reader.get("/v2/team/other/manifests/v1").status_code == 401
        assert reader.put("/v2/team/app/manifests/v1").status_code == 401
        assert reader.get("/v2/_catalog").status_code == 401
        manifest = f"/v2/team/app/manifests/{digest}"
        assert bearing(registry, granting(issuer, app="pull,push")).delete(manifest).status_code == 401
        assert bearing(registry, granting(issuer, app="delete")).delete(manifest).status_code == 202

    def test_a_star_is_for_everything(self, registry: LiveRegistry, issuer: Issuer) -> None:
        client = bearing(registry, granting(issuer, star="*"))
        digest = Repository(client, "team/star").push_manifest(index(), "v1", OCI_INDEX)
        assert client.delete(f"/v2/team/star/manifests/{digest}").status_code == 202

    def test_the_catalog_is_for_those_who_may_read_it(self, registry: LiveRegistry, issuer: Issuer) -> None:
        Repository(bearing(registry, granting(issuer, listed="push,pull")), "team/listed").push_image("v1")
        assert (
            "team/listed" in bearing(registry, granting(issuer, catalog="*")).get("/v2/_catalog").json()["repositories"]
        )

    def test_blobs_are_mounted_from_what_a_token_may_read(self, registry: LiveRegistry, issuer: Issuer) -> None:
        blob = Repository(bearing(registry, granting(issuer, source="pull,push")), "team/source").push_blob(b"mounted")
        path = f"/v2/team/target/blobs/uploads/?mount={blob}&from=team/source"
        assert bearing(registry, granting(issuer, target="pull,push")).post(path).status_code == 202
        assert bearing(registry, granting(issuer, target="pull,push", source="pull")).post(path).status_code == 201

    @pytest.mark.parametrize(
        "claims",
        [{"iss": "another"}, {"aud": "another"}, {"exp": 1}, {"nbf": 2**40}, {"exp": None}, {"aud": None}],
    )
    def test_a_token_that_is_not_for_us_opens_nothing(
        self, registry: LiveRegistry, issuer: Issuer, claims: dict[str, Any]
    ) -> None:
        assert bearing(registry, issuer.mint(**{"iss": ISSUER, **claims})).get("/v2/").status_code == 401
        assert bearing(registry, issuer.mint(iss=ISSUER)).get("/v2/").status_code == 200

    @pytest.mark.parametrize("access", [None, "all", [None], [{"type": "repository", "name": "team/app"}]])
    def test_a_token_that_grants_nothing_passes_the_version_check_alone(
        self, registry: LiveRegistry, issuer: Issuer, access: Any
    ) -> None:
        client = bearing(registry, issuer.mint(iss=ISSUER, access=access))
        assert client.get("/v2/").status_code == 200
        assert client.get("/v2/team/app/tags/list").status_code == 401

    def test_it_is_in_the_log_who_it_was(self, registry: LiveRegistry, issuer: Issuer) -> None:
        bearing(registry, issuer.mint(iss=ISSUER, sub="someone")).get("/v2/")
        until(lambda: registry.entries(user="someone"), "the request is logged")


def test_keys_change_without_a_restart(serve: Serve, tmp_path: Path) -> None:
    with issuing(tmp_path / "issuer") as issuer:
        registry = serve(settings(issuer), workers=2)
        old = issuer.mint(iss=ISSUER)
        assert _opens(registry, old)
        issuer.rotate(keep=1)
        new = issuer.mint(iss=ISSUER)
        until(lambda: _opens(registry, new), "the new key counts")
        assert _opens(registry, old)
        issuer.rotate(keep=1)
        until(lambda: not _opens(registry, old), "a key that is gone counts no more, whoever was known by it")
        assert _opens(registry, new)
        issuer.jwks.write_text("{")
        until(lambda: "stays in force" in registry.messages(), "the server tells")
        assert _opens(registry, new)


def test_a_key_too_many_or_none_is_said_before_serving(serve: Serve, issuer: Issuer, tmp_path: Path) -> None:
    broken = tmp_path / "jwks.json"
    broken.write_text("[]")
    registry = serve(settings(issuer, jwks=str(broken)), start=False)
    registry.start(ready=False)
    assert registry.process.wait() == 2
    assert f"auth.token.jwks: {broken} cannot be used: it is not a JWK Set" in registry.log.read_text()


def _opens(registry: LiveRegistry, token: str) -> bool:
    """At all workers alike."""
    return registry.statuses("/v2/", headers={"authorization": f"Bearer {token}"}) == {200}
