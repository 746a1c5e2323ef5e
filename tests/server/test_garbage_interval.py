"""Collections that a server begins by itself."""

import asyncio
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry_server.config import Recurring
from registry_server.jobs import runs
from registry_server.jobs.garbage import JOB
from registry_server.jobs.recurring import Job
from registry_server.serve.schedule import Schedule
from registry_server.storage.filesystem import FilesystemStorage
from tests.server.conftest import Serve
from tests.server.content import Repository, unique
from tests.server.live import LiveRegistry, until
from tests.server.test_garbage import age, all_of, garbage_collect, trash

SOON = {"garbagecollection": {"grace": "1h", "interval": "1s", "deleteuntagged": True}}
HOURLY = {"garbagecollection": {"grace": "1h", "interval": "1h", "deleteuntagged": True}}


def fill(registry: LiveRegistry) -> set[str]:
    """Pushes an image, what nothing refers to, and what no tag leads to, all long ago; returns what is garbage."""
    app = Repository(registry.client(), "app")
    layer, orphan = unique(), unique()
    app.push_image("v1", layers=[unique()])
    untagged = app.push_image(layers=[layer])
    app.push_blob(orphan)
    age(registry)
    return all_of(layer, orphan, untagged)


def test_garbage_goes_when_the_interval_is_over(serve: Serve) -> None:
    registry = serve(SOON, workers=2)
    garbage = fill(registry)
    until(lambda: trash(registry) == garbage, "it is in the trash")
    until(lambda: "3 contents into the trash" in registry.messages(), "the log says so")
    age(registry)
    until(lambda: trash(registry) == set(), "it is gone")
    assert Repository(registry.client(), "app").get_manifest("v1").status_code == 200


def test_a_restart_begins_no_interval_anew(serve: Serve) -> None:
    registry = serve(HOURLY)
    garbage = fill(registry)
    run = registry.data / ".regatta/runs" / JOB
    until(run.exists, "the first interval has begun")
    registry.stop()
    long_ago = time.time() - 7200
    os.utime(run, (long_ago, long_ago))
    registry.start()
    until(lambda: trash(registry) == garbage, "it is collected")


def test_metrics_tell_of_the_last_one_whoever_began_it(serve: Serve) -> None:
    registry = serve(HOURLY)
    orphan = unique()
    Repository(registry.client(), "app").push_blob(orphan)
    age(registry)
    garbage_collect(registry)
    registry.stop()
    registry.start()
    until(lambda: registry.metric("regatta_job_success", name=JOB) == 1, "it is told")
    assert registry.metric("regatta_job_bytes", name=JOB, what="discarded") == len(orphan)
    assert abs(registry.metric("regatta_job_timestamp_seconds", name=JOB) - time.time()) < 60
    assert registry.metric("regatta_job_duration_seconds", name=JOB) > 0


def test_one_that_broke_off_is_told_of_as_well(tmp_path: Path) -> None:
    async def scenario() -> None:
        aside = FilesystemStorage(str(tmp_path)).aside
        await runs.begin(aside, JOB)
        await runs.begin(aside, JOB)
        begun = await runs.last(aside, JOB)
        assert begun is not None
        assert begun[1] is None, "it has not run yet"
        broken = runs.Run(1.5, "the store is away", {"purged": runs.Sum(2, 20)})
        await runs.note(aside, JOB, broken)
        await runs.begin(aside, JOB)
        last = await runs.last(aside, JOB)
        assert last is not None
        assert last[1] == replace(broken, ended=last[0])

    asyncio.run(scenario())


def test_none_begins_while_the_registry_is_read_only(tmp_path: Path) -> None:
    class LookedOftenEnough(Exception):
        pass

    async def scenario() -> None:
        aside = FilesystemStorage(str(tmp_path)).aside
        await runs.note(aside, JOB, runs.Run())
        long_ago = time.time() - 3600
        os.utime(tmp_path / ".regatta/runs" / JOB, (long_ago, long_ago))
        looks = iter(range(5))

        def read_only() -> bool:
            if next(looks, None) is None:
                raise LookedOftenEnough
            return True

        job = Job(JOB, Recurring(interval=timedelta(seconds=1)), True, [("garbage-collect",)])
        with pytest.raises(LookedOftenEnough):
            await Schedule(aside, tmp_path / "no config", lambda: [job]).run(read_only=read_only)
        assert abs((await aside.written("runs"))[JOB] - long_ago) < 1

    asyncio.run(scenario())
