"""Tags that never move, and access that changes while a registry serves."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, error_codes, index
from tests.server.live import LiveRegistry, serving, until

EVERYONE = {"subjects": ["anonymous"], "repositories": ["**"], "role": "admin"}
RULES = [{"repositories": ["**"], "tags": ["v*"], "semver": True}]
USERS = {"ci": "c-secret", "dev": "d-secret"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("tags"), {"access": {"immutabletags": RULES}}, workers=2) as running:
        yield running


def push(repository: Repository, number: int, tag: str) -> httpx.Response:
    """One of several manifests that are not the same."""
    content = index(annotations={"number": str(number)})
    path = f"/v2/{repository.name}/manifests/{tag}"
    return repository.client.put(path, content=content, headers={"content-type": OCI_INDEX})


class TestImmutableTags:
    @pytest.fixture
    def app(self, registry: LiveRegistry, request: pytest.FixtureRequest) -> Repository:
        return Repository(registry.client(), f"tags/test{abs(hash(request.node.name))}")

    def test_one_that_was_pushed_does_not_move_and_others_do(self, app: Repository) -> None:
        for tag in ("v1", "1.2.3"):
            first = push(app, 1, tag)
            assert first.status_code == 201
            refused = push(app, 2, tag)
            assert refused.status_code == 403
            assert error_codes(refused) == ["DENIED"]
            assert f"tag {tag} is immutable" in refused.json()["errors"][0]["message"]
            found = app.client.get(f"/v2/{app.name}/manifests/{tag}")
            assert found.headers["docker-content-digest"] == first.headers["docker-content-digest"]
        for tag in ("latest", "1", "1.2"):
            assert push(app, 1, tag).status_code == push(app, 2, tag).status_code == 201

    def test_the_same_content_is_pushed_again(self, app: Repository) -> None:
        assert push(app, 1, "v1").status_code == push(app, 1, "v1").status_code == 201
        again = f"/v2/{app.name}/manifests/v1?digest-algorithm=sha512"
        content = index(annotations={"number": "1"})
        assert app.client.put(again, content=content, headers={"content-type": OCI_INDEX}).status_code == 201

    def test_tags_beside_a_digest_are_no_way_around(self, app: Repository) -> None:
        push(app, 1, "v1")
        digest = push(app, 2, "other").headers["docker-content-digest"]
        path = f"/v2/{app.name}/manifests/{digest}?tag=v1&tag=fine"
        content = index(annotations={"number": "2"})
        assert app.client.put(path, content=content, headers={"content-type": OCI_INDEX}).status_code == 403

    def test_it_does_not_go_nor_what_it_points_to(self, app: Repository) -> None:
        digest = push(app, 1, "v1").headers["docker-content-digest"]
        push(app, 1, "moves")
        for reference in ("v1", digest):
            refused = app.client.delete(f"/v2/{app.name}/manifests/{reference}")
            assert refused.status_code == 403
            assert error_codes(refused) == ["DENIED"]
        assert app.client.delete(f"/v2/{app.name}/manifests/moves").status_code == 202
        assert app.client.delete(f"/v2/{app.name}/manifests/v2").status_code == 404
        other = push(app, 2, "moves").headers["docker-content-digest"]
        assert app.client.delete(f"/v2/{app.name}/manifests/{other}").status_code == 202
        assert app.client.get(f"/v2/{app.name}/manifests/v1").status_code == 200

    @pytest.mark.parametrize("metadata", ["layout", "sqlite"])
    def test_of_many_who_push_one_at_once_one_succeeds(self, serve: Serve, tmp_path: Path, metadata: str) -> None:
        """On several workers, as on several replicas."""
        kept = {"sql": {"url": f"sqlite:///{tmp_path / 'metadata'}"}} if metadata == "sqlite" else {"layout": {}}
        registry = serve({"access": {"immutabletags": RULES}, "metadata": kept}, workers=2)
        for round_ in range(10):
            clients = [Repository(registry.client(), f"race/{round_}") for _ in range(6)]
            with ThreadPoolExecutor(len(clients)) as pool:
                answers = list(pool.map(lambda one: push(one[1], one[0], "v1"), enumerate(clients)))
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses == [201] + [403] * 5
            winner = next(answer for answer in answers if answer.status_code == 201)
            found = clients[0].client.get(f"/v2/race/{round_}/manifests/v1")
            assert found.headers["docker-content-digest"] == winner.headers["docker-content-digest"]

    def test_a_link_that_a_disk_has_damaged_claims_nothing(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "damaged/app")
        assert push(app, 1, "v1").status_code == 201
        link = registry.root / "repositories/damaged/app/_manifests/tags/v1/current/link"
        link.write_text("")
        assert push(app, 2, "v1").status_code == 201
        assert push(app, 1, "v1").status_code == 403


class TestAccessChanges:
    def test_policies_and_rules_hold_at_once_for_every_worker(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": [EVERYONE]}}, users=USERS, workers=2)
        app = Repository(registry.client(), "team/app")
        push(app, 1, "v1")
        assert push(app, 2, "v1").status_code == 201
        token = registry.client("dev", USERS["dev"]).get("/auth/token").json()["token"]
        pull_by_dev = {"subjects": ["user:dev"], "repositories": ["team/*"], "role": "reader"}
        change(registry, access={"policies": [pull_by_dev], "immutabletags": RULES})
        until(lambda: statuses(registry, None) == {401}, "nobody pulls without a login")
        assert statuses(registry, "dev") == {200}
        assert statuses(registry, "ci") == {403}
        headers = {"authorization": f"Bearer {token}"}
        assert registry.fresh.get(f"{registry.url}/v2/team/app/tags/list", headers=headers).status_code == 200
        change(registry, access={"policies": [EVERYONE], "immutabletags": RULES})
        until(lambda: statuses(registry, None) == {200}, "everybody pulls again")
        assert push(app, 3, "v1").status_code == 403
        change(registry, access={"policies": [EVERYONE]})
        until(lambda: push(app, 3, "v1").status_code == 201, "the tag moves again")

    def test_a_worker_that_starts_later_has_them_from_its_first_request(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": [EVERYONE]}})
        registry.crashes_expected = True
        change(registry, access={"policies": []})
        until(lambda: statuses(registry, None) == {403}, "the change is in force")
        (worker,) = registry.worker_pids()
        registry.kill_worker(worker)
        until(lambda: registry.worker_pids() not in ([], [worker]), "another worker is there")
        assert statuses(registry, None) == {403}

    def test_what_cannot_be_used_changes_nothing(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": [EVERYONE]}})
        change(registry, access={"policies": [{"subjects": ["everyone"], "repositories": ["**"], "role": "admin"}]})
        until(lambda: "what is in force stays" in registry.messages(), "the server tells")
        assert "access.policies[0].subjects[0]: must be anonymous" in registry.messages()
        assert statuses(registry, None) == {404}
        change(registry, access={"policies": []})
        until(lambda: statuses(registry, None) == {403}, "the file is followed again")

    def test_what_takes_a_start_is_said(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": [EVERYONE]}})
        change(registry, access={"policies": []}, manifests={"sparse": "none"}, log={"level": "info"})
        until(lambda: "changes of log, manifests take effect at the next start" in registry.messages(), "it is said")
        until(lambda: statuses(registry, None) == {403}, "access is followed all the same")


def change(registry: LiveRegistry, **blocks: Any) -> None:
    """As Kubernetes does: another file under the same name."""
    new = registry.config.with_suffix(".new")
    new.write_text(json.dumps({**json.loads(registry.config.read_text()), **blocks}))
    new.replace(registry.config)


def statuses(registry: LiveRegistry, user: str | None) -> set[int]:
    """What pulls end with at any worker."""
    return registry.statuses("/v2/team/app/tags/list", auth=None if user is None else (user, USERS[user]))
