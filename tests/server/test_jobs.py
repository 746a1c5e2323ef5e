"""`/v2/_regatta/jobs`: what administrators see of a registry's jobs, begin and end; `/jobs` of the debug port."""

import asyncio
import itertools
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_server.jobs import runs
from registry_server.jobs.runs import Run, Sum, Underway
from registry_server.storage.filesystem import FilesystemStorage
from tests.server.conftest import Serve
from tests.server.content import Repository
from tests.server.live import LiveRegistry, until
from tests.server.test_backup import destination

USERS = {"root": "one", "team": "two", "ci": "three"}
ACCESS = {
    "policies": [
        {"subjects": ["user:root"], "repositories": ["**"], "role": "admin"},
        {"subjects": ["user:team"], "repositories": ["team/**"], "role": "admin"},
        {"subjects": ["user:ci"], "repositories": ["**"], "role": "maintainer"},
    ]
}
SLOWLY = {"scrub": {"rate": 1 << 20}}
"""A mebibyte a second."""


@pytest.fixture
def registry(serve: Serve, archive: Path) -> LiveRegistry:
    nightly = {"backup": destination(archive)["backup"] | {"schedule": "15 2 * * *", "timezone": "Europe/Berlin"}}
    return serve(nightly | SLOWLY | {"access": ACCESS}, users=USERS, workers=2)


@pytest.fixture
def root(registry: LiveRegistry) -> httpx.Client:
    return registry.client("root", USERS["root"])


def jobs(client: httpx.Client) -> dict[str, Any]:
    """All jobs by their names."""
    response = client.get("/v2/_regatta/jobs")
    assert response.status_code == 200
    return {job["name"]: job for job in response.json()["jobs"]}


def running(client: httpx.Client) -> dict[str, Any]:
    return {one["name"]: one for one in client.get("/v2/_regatta/jobs").json()["running"]}


class TestList:
    def test_what_recurs_and_when(self, root: httpx.Client) -> None:
        found = jobs(root)
        assert set(found) == {"garbage-collect", "backup", "scrub"}
        assert found["backup"]["when"] == {"schedule": "15 2 * * *", "timezone": "Europe/Berlin"}
        due = datetime.strptime(found["backup"]["next"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert 0 < (due - datetime.now(UTC)).total_seconds() <= 24 * 3600
        assert (due.hour, due.minute) in ((0, 15), (1, 15)), "02:15 in Berlin"
        assert found["scrub"]["when"] == {}
        assert found["scrub"]["next"] is None
        assert found["backup"]["runs"] == []

    def test_anyone_who_reaches_the_debug_port_may_read_it(self, registry: LiveRegistry, root: httpx.Client) -> None:
        response = registry.debug("/jobs")
        assert response.status_code == 200
        assert response.json() == root.get("/v2/_regatta/jobs").json()
        assert registry.fresh.post(f"{registry.debug_url}/jobs/scrub").status_code == 405

    @pytest.mark.parametrize(("user", "status"), [(None, 401), ("team", 403), ("ci", 403), ("root", 200)])
    def test_it_takes_the_administrator_of_all(self, registry: LiveRegistry, user: str | None, status: int) -> None:
        client = registry.client(user, USERS.get(user or "", ""))
        assert client.get("/v2/_regatta/jobs").status_code == status
        refused = {200: 404}.get(status, status)
        assert client.post("/v2/_regatta/jobs/nonsense").status_code == refused
        assert client.delete("/v2/_regatta/jobs/scrub").status_code == refused

    def test_where_nobody_can_log_in_nobody_administers(self, serve: Serve) -> None:
        assert serve({}).client().get("/v2/_regatta/jobs").status_code == 403

    def test_a_token_for_repositories_is_none_for_this(self, registry: LiveRegistry, root: httpx.Client) -> None:
        scope = {"service": "x", "scope": "repository:team/app:*"}
        token = root.get("/auth/token", params=scope).json()["token"]
        headers = {"authorization": f"Bearer {token}"}
        assert registry.client().get("/v2/_regatta/jobs", headers=headers).status_code == 401


class TestBegin:
    def test_it_is_done_and_told_of(self, registry: LiveRegistry, root: httpx.Client, archive: Path) -> None:
        Repository(root, "app").push_image("v1")
        response = root.post("/v2/_regatta/jobs/backup")
        assert response.status_code == 202
        assert response.json() == {"name": "backup"}
        until(lambda: jobs(root)["backup"]["runs"], "it has ended")
        (run,) = jobs(root)["backup"]["runs"]
        assert run["error"] is None
        assert run["sums"]["held"]["count"] == 3
        assert run["sums"]["copied"] == run["sums"]["held"]
        assert (archive / ".regatta/backups" / run["result"]).is_file()
        until(lambda: "pruned" in registry.messages() or "0 runs, 0 contents" in registry.messages(), "it is pruned")
        assert root.post("/v2/_regatta/jobs/backup").status_code == 202
        until(lambda: len(jobs(root)["backup"]["runs"]) == 2, "the second has ended")
        second, first = jobs(root)["backup"]["runs"]
        assert first == run
        assert second["sums"]["copied"]["count"] == 0

    def test_what_is_not_configured_is_unknown(self, root: httpx.Client) -> None:
        for name in ("retention", "nonsense", "..", "%2e%2e"):
            assert root.post(f"/v2/_regatta/jobs/{name}").status_code in (404, 405)
        assert root.get("/v2/_regatta/jobs/backup").status_code == 405

    def test_a_registry_that_is_read_only_changes_nothing(self, serve: Serve) -> None:
        read_only = {"storage": {"maintenance": {"readonly": {"enabled": True}}}}
        client = serve(read_only, users=USERS).client("root", USERS["root"])
        response = client.post("/v2/_regatta/jobs/garbage-collect")
        assert response.status_code == 405
        assert "read-only" in response.json()["errors"][0]["message"]


class TestUnderway:
    def test_it_tells_how_far_it_is_keeps_others_out_and_ends_on_request(
        self, registry: LiveRegistry, root: httpx.Client
    ) -> None:
        for _ in range(3):
            Repository(root, "app").push_blob(os.urandom(8 << 20))
        assert root.post("/v2/_regatta/jobs/scrub").status_code == 202
        until(lambda: running(root), "it tells of itself")
        assert registry.debug("/jobs").json()["running"][0]["name"] == "scrub"
        occupied = root.post("/v2/_regatta/jobs/backup")
        assert occupied.status_code == 409
        assert "scrub is at work" in occupied.json()["errors"][0]["message"]
        assert root.delete("/v2/_regatta/jobs/scrub").status_code == 202
        until(lambda: jobs(root)["scrub"]["runs"], "it has ended")
        (run,) = jobs(root)["scrub"]["runs"]
        assert run["error"] == "was cancelled"
        assert run["seconds"] < 20, "it would take 24"
        assert running(root) == {}
        # Which it says last, when it has let go of the storage.
        until(lambda: "it was cancelled; nothing is lost" in registry.messages(), "the process has ended")
        assert root.post("/v2/_regatta/jobs/backup").status_code == 202, "others may begin at once"

    def test_the_time_that_is_left(self) -> None:
        def remaining(done: int, expected: Sum | None) -> float | None:
            return Underway("backup", 10.0, 0.0, {"copied": Sum(1, done)}, expected).remaining

        assert remaining(100, Sum(4, 400)) == 30.0
        assert remaining(400, Sum(4, 400)) == 0.0
        assert remaining(0, Sum(4, 400)) is None
        assert remaining(100, None) is None


def test_the_last_ten_runs_are_known(tmp_path: Path) -> None:
    async def scenario() -> None:
        aside = FilesystemStorage(str(tmp_path)).aside
        await runs.begin(aside, "backup")
        assert await runs.history(aside, "backup") == ((await runs.last(aside, "backup") or (0, None))[0], [])
        for number in range(12):
            await runs.note(aside, "backup", Run(result=str(number)))
        await runs.fail(aside, "backup", "it is damaged")
        _, known = await runs.history(aside, "backup") or (0.0, ())
        assert [run.result for run in known] == [str(number) for number in range(11, 1, -1)]
        assert [run.error for run in known[:2]] == ["it is damaged", None]
        assert all(before.ended <= after.ended for after, before in itertools.pairwise(known))
        assert known[-1].ended > 0
        (tmp_path / ".regatta/runs/backup").write_text(json.dumps({"no": "list"}))
        last = await runs.last(aside, "backup")
        assert last is not None
        assert last[1] is not None
        assert last[1].error == "its record is damaged"

    asyncio.run(scenario())
