"""Quotas: how much repositories may take, shown by API, command and metrics, enforced where a push takes more."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures import forked
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import Repository, digest_of, error_codes, image
from tests.server.live import LiveRegistry, serving, until
from tests.server.test_access_live import change

KIB = 1024
QUOTAS = [
    {"repositories": ["small/*"], "bytes": "64KiB", "tags": 2},
    {"repositories": ["fleet/**"], "together": True, "bytes": 100 * KIB},
    {"repositories": ["measured/*"]},
]
READERS = [
    {"subjects": ["anonymous"], "repositories": ["small/*"], "role": "admin"},
    {"subjects": ["user:boss"], "repositories": ["**"], "role": "admin"},
]


@pytest.fixture(scope="module", params=METADATA)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    folder = tmp_path_factory.mktemp("quotas")
    settings = {"quotas": QUOTAS, **metadata_settings(request.param, request, folder)}
    with serving(folder, settings, workers=2) as running:
        yield running


@pytest.fixture
def small(registry: LiveRegistry, request: pytest.FixtureRequest) -> Repository:
    return Repository(registry.client(), f"small/{abs(hash(request.node.name))}")


def usage(repository: Repository) -> dict[str, Any]:
    answer: dict[str, Any] = repository.client.get(f"{repository.path}/_regatta/usage").raise_for_status().json()
    return answer


def start(repository: Repository, **query: str) -> httpx.Response:
    return repository.client.post(f"{repository.path}/blobs/uploads/", params=query)


def push(repository: Repository, content: bytes) -> httpx.Response:
    return repository.client.put(start(repository).headers["location"], params=digest(content), content=content)


def digest(content: bytes) -> dict[str, str]:
    return {"digest": digest_of(content)}


def assert_denied(response: httpx.Response, quota: str = "bytes") -> None:
    assert (response.status_code, error_codes(response)) == (403, ["DENIED"])
    assert response.json()["errors"][0]["detail"]["quota"] == quota
    assert "quota would be exceeded" in response.json()["errors"][0]["message"]


class TestUsage:
    def test_it_is_what_a_repository_holds_each_content_once(self, small: Repository) -> None:
        layers = [os.urandom(10 * KIB), os.urandom(KIB)]
        for layer in (*layers, layers[0], b"{}"):
            small.push_blob(layer)
        manifest = image(layers=layers)
        for tag in ("one", "two"):
            assert small.put_manifest(manifest, tag).status_code == 201
        taken = 11 * KIB + 2 + len(manifest)
        assert usage(small) == {
            "name": small.name,
            "bytes": taken,
            "tags": 2,
            "quotas": [
                {
                    "repositories": ["small/*"],
                    "together": False,
                    "used": {"bytes": taken, "tags": 2},
                    "limit": {"bytes": 64 * KIB, "tags": 2},
                }
            ],
        }

    def test_a_sha512_digest_is_no_second_content(self, small: Repository) -> None:
        content = os.urandom(KIB)
        small.push_blob(content)
        location = start(small).headers["location"]
        assert small.client.put(location, params={"digest": digest_of(content, "sha512")}, content=content).is_success
        assert usage(small)["bytes"] == KIB

    def test_what_is_taken_away_takes_nothing_any_more(self, small: Repository) -> None:
        content = os.urandom(KIB)
        small.push_blob(content)
        small.push_blob(b"{}")
        assert small.client.delete(f"{small.path}/blobs/{digest_of(content)}").status_code == 202
        assert usage(small)["bytes"] == 2

    def test_a_repository_without_a_quota_is_measured_as_well(self, registry: LiveRegistry) -> None:
        free = Repository(registry.client(), "free/app")
        free.push_blob(os.urandom(200 * KIB))
        assert usage(free) == {"name": "free/app", "bytes": 200 * KIB, "tags": 0}

    def test_one_that_does_not_exist_has_none(self, registry: LiveRegistry) -> None:
        response = registry.client().get("/v2/none/_regatta/usage")
        assert (response.status_code, error_codes(response)) == (404, ["NAME_UNKNOWN"])

    def test_of_all_repositories_it_comes_in_pages(self, registry: LiveRegistry) -> None:
        client = registry.client()
        for name in ("pages/a", "pages/b", "pages/c"):
            Repository(client, name).push_image("latest")
        first = client.get("/v2/_regatta/usage", params={"n": "2", "last": "pages"})
        assert [one["name"] for one in first.json()["repositories"]] == ["pages/a", "pages/b"]
        assert first.json()["repositories"][0] == usage(Repository(client, "pages/a"))
        second = client.get(first.links["next"]["url"]).json()["repositories"]
        assert second[0]["name"] == "pages/c"

    def test_it_is_for_those_who_may_pull(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": READERS}}, users={"boss": "word"})
        boss, stranger = registry.client("boss", "word"), registry.client()
        for name in ("small/app", "secret/app"):
            Repository(boss, name).push_image("latest")
        assert stranger.get("/v2/secret/app/_regatta/usage").status_code == 401
        assert stranger.get("/v2/small/app/_regatta/usage").status_code == 200
        seen = [
            [one["name"] for one in client.get("/v2/_regatta/usage").json()["repositories"]]
            for client in (stranger, boss)
        ]
        assert seen == [["small/app"], ["secret/app", "small/app"]]


class TestBytes:
    def test_a_blob_that_is_too_large_is_refused_before_it_is_sent(self, small: Repository) -> None:
        response = start(small)
        assert_denied(small.client.patch(response.headers["location"], content=bytes(65 * KIB)))
        assert_denied(start_with(small, os.urandom(65 * KIB)))

    def test_one_that_turns_out_too_large_ends_its_upload(self, small: Repository) -> None:
        content = os.urandom(65 * KIB)
        location = start(small).headers["location"]
        pieces = (content[at : at + KIB] for at in range(0, len(content), KIB))  # no Content-Length
        assert_denied(small.client.put(location, params=digest(content), content=pieces))
        assert small.client.get(location).status_code == 404
        assert small.client.head(f"{small.path}/blobs/{digest_of(content)}").status_code == 404

    def test_up_to_the_last_byte_and_no_further(self, small: Repository) -> None:
        assert push(small, os.urandom(60 * KIB)).status_code == 201
        assert_denied(push(small, os.urandom(4 * KIB + 1)))
        assert push(small, os.urandom(4 * KIB)).status_code == 201
        assert_denied(start(small))

    def test_a_manifest_counts_as_well(self, small: Repository) -> None:
        small.push_blob(b"{}")
        small.push_blob(os.urandom(64 * KIB - 10))
        assert_denied(small.put_manifest(image(), "latest"))

    def test_what_is_there_may_be_pushed_again(self, small: Repository) -> None:
        layer = os.urandom(60 * KIB)
        manifest = image(layers=[layer])
        small.push_blob(b"{}")
        location, again = (start(small).headers["location"] for _ in range(2))
        small.push_blob(layer)
        assert small.put_manifest(manifest, "latest").status_code == 201
        assert small.client.put(location, params=digest(layer), content=layer).status_code == 201
        assert_denied(small.client.put(again, params=digest(b"x" * 5 * KIB), content=b"x" * 5 * KIB))
        assert small.put_manifest(manifest, "latest").status_code == 201

    def test_a_mount_counts_as_a_push(self, registry: LiveRegistry, small: Repository) -> None:
        other = Repository(registry.client(), f"{small.name.replace('small', 'from')}")
        large, little = os.urandom(70 * KIB), os.urandom(KIB)
        for content in (large, little):
            other.push_blob(content)
        source = {"from": other.name}
        assert start(small, mount=digest_of(little), **source).status_code == 201
        assert_denied(start(small, mount=digest_of(large), **source))

    def test_pushes_at_once_fit_together_or_some_are_refused(self, serve: Serve) -> None:
        """However they meet: what one is putting there counts for the others."""
        registry = serve({"quotas": QUOTAS})
        clients = [Repository(registry.client(), "small/race") for _ in range(8)]
        locations = [start(one).headers["location"] for one in clients]
        contents = [os.urandom(20 * KIB) for _ in clients]

        def put(one: Repository, location: str, content: bytes) -> int:
            return one.client.put(location, params=digest(content), content=content).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(put, clients, locations, contents))
        assert statuses.count(201) == 3
        assert statuses.count(403) == 5
        assert usage(clients[0])["bytes"] == 60 * KIB


class TestTags:
    def test_of_new_ones_only_as_many_as_are_allowed(self, small: Repository) -> None:
        small.push_blob(b"{}")
        for tag in ("one", "two"):
            assert small.put_manifest(image(), tag).status_code == 201
        assert_denied(small.put_manifest(image(), "three"), "tags")
        assert small.client.get(f"{small.path}/manifests/three").status_code == 404
        assert small.put_manifest(image(annotations={"moved": "yes"}), "two").status_code == 201
        assert small.client.delete(f"{small.path}/manifests/one").status_code == 202
        assert small.put_manifest(image(), "three").status_code == 201


class TestTogether:
    def test_repositories_share_what_is_allowed(self, serve: Serve) -> None:
        registry = serve({"quotas": QUOTAS})
        one, other = (Repository(registry.client(), f"fleet/{name}") for name in ("one", "team/other"))
        assert push(one, os.urandom(60 * KIB)).status_code == 201
        assert_denied(push(other, os.urandom(50 * KIB)))
        assert push(other, os.urandom(40 * KIB)).status_code == 201
        assert usage(other)["bytes"] == 40 * KIB
        assert usage(other)["quotas"][0]["used"]["bytes"] == 100 * KIB
        assert_denied(start(one))


class TestFollowing:
    def test_other_quotas_count_without_a_restart(self, serve: Serve) -> None:
        registry = serve(workers=2)
        app = Repository(registry.client(), "small/app")
        app.push_blob(os.urandom(65 * KIB))
        change(registry, quotas=QUOTAS)
        path = f"{app.path}/blobs/uploads/"
        until(lambda: registry.statuses(path, "POST") == {403}, "the quota counts at every worker")
        change(registry, quotas=[])
        until(lambda: registry.statuses(path, "POST") == {202}, "it does not any more")


class TestShowing:
    def test_the_metrics_tell_it(self, serve: Serve) -> None:
        registry = serve({"quotas": QUOTAS})
        for name in ("small/app", "fleet/app", "measured/app", "free/app"):
            Repository(registry.client(), name).push_blob(os.urandom(KIB))
        registry.stop()
        registry.start()  # it is measured as the server starts, and each minute

        def metric(name: str, **labels: str) -> float:
            return registry.metric(f"regatta_{name}", **labels)

        until(lambda: metric("repository_used_bytes", repository="small/app") == KIB, "it is measured")
        assert metric("repository_used_bytes", repository="measured/app") == KIB
        assert metric("repository_used_bytes") == 3 * KIB
        assert metric("quota_used_bytes", repositories="fleet/**") == KIB
        assert metric("quota_limit_bytes", repositories="fleet/**", together="true") == 100 * KIB
        assert metric("quota_limit_tags", repositories="small/*", together="false") == 2

    def test_the_command_tells_it_beside_a_server(self, serve: Serve) -> None:
        registry = serve({"quotas": QUOTAS})
        for name, size in (("small/app", KIB), ("free/app", 3 * KIB)):
            Repository(registry.client(), name).push_blob(os.urandom(size))
        done = forked.run("registry-server", "usage", registry.config, "--format", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [(one["name"], one["bytes"]) for one in found] == [("free/app", 3 * KIB), ("small/app", KIB)]
        assert found[1] == usage(Repository(registry.client(), "small/app"))
        table = forked.run("registry-server", "usage", registry.config, "small/app").stdout
        assert "small/app" in table
        assert "1.0KiB of 64.0KiB, 0 of 2 tags" in table
        assert "free/app" not in table


class TestConfiguration:
    @pytest.mark.parametrize(
        ("quota", "message"),
        [
            ({"repositories": ["small/*"], "bytes": "much"}, "quotas[0].bytes"),
            ({"repositories": ["small/*"], "tags": -1}, "quotas[0].tags"),
            ({"repositories": [], "tags": 1}, "quotas[0].repositories"),
            ({"repositories": ["Team/*"], "tags": 1}, "quotas[0].repositories[0]: must be repository names"),
        ],
    )
    def test_a_fault_is_named(self, quota: dict[str, Any], message: str, tmp_path: Path) -> None:
        config = tmp_path / "config.yml"
        settings = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(tmp_path)}}, "quotas": [quota]}
        config.write_text(json.dumps(settings))
        done = forked.run("registry-server", "config", "check", config)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def start_with(repository: Repository, content: bytes) -> httpx.Response:
    """A whole blob in one request."""
    return repository.client.post(f"{repository.path}/blobs/uploads/", params=digest(content), content=content)
