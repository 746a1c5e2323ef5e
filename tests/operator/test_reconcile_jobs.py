"""How jobs go, as a server tells: in the status, as Events, and each backup as a RegistryBackup."""

from typing import Any

import pytest

from registry_operator.api.kinds import DEPLOYMENT, REGISTRY, REGISTRY_BACKUP, SECRET
from tests.operator.kube import Json
from tests.operator.reconcile_world import World
from tests.operator.test_reconcile_archives import told
from tests.operator.test_reconcile_storage import claim

BACKED_UP: Json = {"backup": {"destination": {"s3": {"bucket": "backups"}}}, "scrub": {}}
SOURCE: Json = {
    "s3": {"bucket": "backups", "region": "us-east-1", "prefix": "/NAMESPACE/team", "forcePathStyle": False}
}
FIRST, SECOND = "20251231T020000Z", "20260101T020000Z"


def run(ended: str, result: str | None = None, error: str | None = None) -> Json:
    """A run that has ended, as a server tells of it."""
    sums = {"held": {"count": 30, "bytes": 3000}, "copied": {"count": 2, "bytes": 200}} if result else {}
    return {"ended": ended, "seconds": 12.3, "error": error, "result": result, "sums": sums}


def says(
    *runs: Json, kept: list[str] | None = None, running: tuple[Json, ...] = (), scrubs: tuple[Json, ...] = ()
) -> Json:
    """What a server says that backs up nightly, and scrubs."""
    backup = {"name": "backup", "when": {}, "next": "2026-01-02T02:00:00Z", "runs": [*runs], "kept": kept}
    scrub = {"name": "scrub", "when": {}, "next": None, "runs": [*scrubs]}
    collection = {"name": "garbage-collect", "when": {}, "next": None, "runs": [run("2026-01-01T00:00:00Z")]}
    return {"jobs": [collection, backup, scrub], "running": [*running]}


def backups(world: World) -> dict[str, Json]:
    return {one["metadata"]["name"]: one for one in world.kube.all(REGISTRY_BACKUP, world.namespace)}


class TestStatus:
    def test_last_and_next_of_what_the_spec_has(self, world: World) -> None:
        world.serve(BACKED_UP)
        assert "backup" not in world.status()
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), run("2025-12-31T02:05:00Z", FIRST)))
        world.reconcile()
        status = world.status()
        assert status["backup"] == {
            "lastTime": "2026-01-01T02:05:00Z",
            "lastResult": "Succeeded",
            "lastSuccessTime": "2026-01-01T02:05:00Z",
            "lastBackup": "team-20260101t020000z",
            "nextTime": "2026-01-02T02:00:00Z",
        }
        assert status["scrub"] == {}
        assert "garbageCollection" not in status

    def test_what_is_known_stays_while_the_server_does_not_answer(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND)))
        world.reconcile()
        known = world.status()["backup"]
        for answer in (None, {"jobs": "of another version"}):
            world.server_says(answer)
            world.reconcile()
            assert world.status()["backup"] == known
        world.change({"backup": None})
        world.reconcile()
        world.roll_out()
        world.reconcile()
        assert "backup" not in world.status()

    def test_a_failure_keeps_the_last_success_and_is_told_of_once(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2025-12-31T02:05:00Z", FIRST)))
        world.reconcile()
        failed = run("2026-01-01T02:05:00Z", error="the bucket is away")
        world.server_says(says(failed, run("2025-12-31T02:05:00Z", FIRST)))
        world.reconcile()
        world.reconcile()
        status = world.status()["backup"]
        assert (status["lastResult"], status["message"]) == ("Failed", "the bucket is away")
        assert status["lastSuccessTime"] == "2025-12-31T02:05:00Z"
        world.server_says(says(run("2026-01-02T02:05:00Z", SECOND), failed))
        world.reconcile()
        told_of = [event for event in world.events() if event[1].startswith("Backup")]
        assert told_of == [("Warning", "BackupFailed"), ("Normal", "BackupSucceeded")]

    def test_damage_that_a_scrub_found_is_an_event(self, world: World) -> None:
        world.serve(BACKED_UP)
        damage = run("2026-01-01T02:05:00Z", error="2 contents are damaged and in quarantine")
        world.server_says(says(scrubs=(damage,)))
        world.reconcile()
        assert ("Warning", "ScrubFailed") in world.events()

    def test_it_looks_again_when_something_may_be_new(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says())
        assert world.reconcile().requeue_after == 300
        world.server_says(says(running=({"name": "backup", "began": "2026-01-01T00:00:00Z"},)))
        assert world.reconcile().requeue_after == 10
        assert world.status()["backup"]["runningSince"] == "2026-01-01T00:00:00Z"
        world.server_says(None)
        assert world.reconcile().requeue_after == 60

    def test_a_registry_without_jobs_is_not_asked(self, world: World) -> None:
        world.serve({})
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        assert "backup" not in world.status()
        assert backups(world) == {}


class TestRegistryBackups:
    def test_there_is_one_of_each_run_that_is_kept(self, world: World) -> None:
        world.serve(BACKED_UP)
        both = (run("2026-01-01T02:05:00Z", SECOND), run("2025-12-31T02:05:00Z", FIRST))
        world.server_says(says(*both, kept=[FIRST, SECOND]))
        world.reconcile()
        made = backups(world)
        assert set(made) == {"team-20251231t020000z", "team-20260101t020000z"}
        one = made["team-20260101t020000z"]
        assert one["spec"] == {
            "registry": "team",
            "run": SECOND,
            "source": {"s3": {**SOURCE["s3"], "prefix": f"/{world.namespace}/team"}},
        }
        assert one["status"] == {
            "phase": "Completed",
            "completionTime": "2026-01-01T02:05:00Z",
            "durationSeconds": 12,
            "sizeBytes": 3000,
            "contents": 30,
            "newBytes": 200,
        }
        versions = {name: one["metadata"]["resourceVersion"] for name, one in made.items()}
        world.reconcile()
        assert {name: one["metadata"]["resourceVersion"] for name, one in backups(world).items()} == versions

    def test_they_go_with_the_run_and_not_with_the_registry(self, world: World) -> None:
        world.serve(BACKED_UP)
        both = (run("2026-01-01T02:05:00Z", SECOND), run("2025-12-31T02:05:00Z", FIRST))
        world.server_says(says(*both, kept=[FIRST, SECOND]))
        world.reconcile()
        for known in (both, ()):
            world.server_says(says(*known, kept=None))
            world.reconcile()
            assert len(backups(world)) == 2, "an archive that does not answer has not lost its runs"
        world.server_says(says(*both, kept=[SECOND]))
        world.reconcile()
        assert set(backups(world)) == {"team-20260101t020000z"}
        assert "ownerReferences" not in backups(world)["team-20260101t020000z"]["metadata"]
        world.change({"backup": {"destination": {"s3": {"bucket": "another"}}}})
        world.server_says(says(kept=[]))
        world.reconcile()
        assert set(backups(world)) == {"team-20260101t020000z"}, "those in the other bucket are none of its business"

    def test_the_last_failures_are_among_them(self, world: World) -> None:
        world.serve(BACKED_UP)
        failures = [run(f"2026-01-01T02:{minute:02}:00Z", error=f"number {minute}") for minute in range(9, 0, -1)]
        world.server_says(says(*failures, kept=[]))
        world.reconcile()
        made = backups(world)
        assert sorted(one["status"]["message"] for one in made.values()) == ["number 7", "number 8", "number 9"]
        assert {one["status"]["phase"] for one in made.values()} == {"Failed"}
        assert "team-20260101t020900z-failed" in made
        newer = run("2026-01-01T03:00:00Z", error="number 10")
        world.server_says(says(newer, *failures, kept=[]))
        world.reconcile()
        messages = {one["status"]["message"] for one in backups(world).values()}
        assert messages == {"number 10", "number 8", "number 9"}

    def test_damage_that_verification_finds_later_is_noted(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        world.server_says(says(run("2026-01-01T02:09:00Z", SECOND, error="1 contents are damaged"), kept=[SECOND]))
        world.reconcile()
        status = backups(world)["team-20260101t020000z"]["status"]
        assert (status["phase"], status["message"]) == ("Failed", "1 contents are damaged")

    def test_they_can_not_be_changed(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        change: dict[str, Any] = {"spec": {"run": FIRST}}
        with pytest.raises(pytest.fail.Exception, match="it can't be changed"):
            world.kube.merge(REGISTRY_BACKUP, world.namespace, "team-20260101t020000z", change)


class TestBootstrap:
    def test_a_new_registry_begins_with_one(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        world.kube.delete(REGISTRY, world.namespace, "team")
        world.create({"bootstrap": {"backup": {"name": "team-20260101t020000z"}}}, name="again")
        world.reconcile("again")
        config = told(world, "again")
        assert config["bootstrap"]["run"] == SECOND
        assert config["bootstrap"]["source"]["s3"]["bucket"] == "backups"
        assert config["bootstrap"]["source"]["s3"]["rootdirectory"] == f"/{world.namespace}/team"

    def test_it_counts_also_when_the_run_is_gone(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        world.create({"bootstrap": {"backup": {"name": "team-20260101t020000z"}}}, name="again")
        world.reconcile("again")
        assert world.status("again")["bootstrap"]["run"] == SECOND
        before = told(world, "again")
        world.server_says(says(kept=[]))
        world.reconcile()
        assert backups(world) == {}
        world.reconcile("again")
        assert world.condition("Degraded", "again")[0] == "False"
        assert told(world, "again") == before

    def test_one_in_a_claim_is_mounted_from_its_folder(self, world: World) -> None:
        claim(world, "backups", "ReadWriteMany")
        world.serve({"backup": {"destination": {"claim": {"name": "backups"}}}})
        world.server_says(says(run("2026-01-01T02:05:00Z", SECOND), kept=[SECOND]))
        world.reconcile()
        world.create({"bootstrap": {"backup": {"name": "team-20260101t020000z"}}}, name="again")
        world.reconcile("again")
        mounts = world.the(DEPLOYMENT, "again")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert next(one["subPath"] for one in mounts if one["name"] == "bootstrap") == "team"

    def test_one_that_is_missing_is_waited_for(self, world: World) -> None:
        world.create({"bootstrap": {"backup": {"name": "lost"}}})
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "BackupMissing"
        assert "there is no RegistryBackup lost" in message
        assert world.get(SECRET, "team-config") is None

    def test_one_that_broke_off_is_none(self, world: World) -> None:
        world.serve(BACKED_UP)
        world.server_says(says(run("2026-01-01T02:05:00Z", error="the bucket is away"), kept=[]))
        world.reconcile()
        world.create({"bootstrap": {"backup": {"name": "team-20260101t020500z-failed"}}}, name="again")
        world.reconcile("again")
        assert world.degraded("again")[0] == "BackupIncomplete"

    @pytest.mark.parametrize(
        "bootstrap",
        [{}, {"backup": {"name": "a"}, "source": {"s3": {"bucket": "b"}}}, {"backup": {"name": "a"}, "run": FIRST}],
    )
    def test_it_is_one_or_a_source(self, world: World, bootstrap: Json) -> None:
        with pytest.raises(pytest.fail.Exception, match="backup"):
            world.create({"bootstrap": bootstrap})
