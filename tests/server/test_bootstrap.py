"""A new registry that begins with what a backup has kept, before its first request."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.live import LiveRegistry, until
from tests.server.test_backup import LARGE, assert_there, back_up, blob_path, command, destination, fill, let_leases_end


@pytest.fixture
def registry(serve: Serve, archive: Path) -> LiveRegistry:
    """The one that is backed up."""
    return serve(destination(archive))


def beginning_from(archive: Path, **more: Any) -> dict[str, Any]:
    return {"bootstrap": {"source": {"filesystem": {"rootdirectory": str(archive)}}, **more}}


def readiness(registry: LiveRegistry) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = registry.debug("/readyz").json()
    except httpx.TransportError:
        return {}
    return answer


def test_it_serves_all_from_its_first_request_on(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    manifests = fill(Repository(registry.client(), "team/app"))
    other = Repository(registry.client(), "other").push_image("v1")
    back_up(registry)
    new = serve(beginning_from(archive), workers=2)
    assert_there(Repository(new.client(), "team/app"), manifests)
    assert_there(Repository(new.client(), "other"), {"v1": other})
    assert "bootstrap: 2 repositories, 4 tags, 6 manifests: proven to be as it was" in new.messages()


def test_it_does_so_once(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    Repository(registry.client(), "app").push_image("v1")
    back_up(registry)
    new = serve(beginning_from(archive))
    app = Repository(new.client(), "app")
    moved = app.push_image("v1")
    Repository(registry.client(), "app").push_image("v2")
    back_up(registry)
    new.stop()
    app = Repository(new.start().client(), "app")
    assert app.get_manifest("v1").content == moved
    assert app.tags() == ["v1"]


def test_a_run_that_is_named_comes_back(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    first = Repository(registry.client(), "app").push_image("v1")
    run = back_up(registry)
    Repository(registry.client(), "app").push_image("v1")
    back_up(registry)
    new = serve(beginning_from(archive, run=run["id"]))
    assert Repository(new.client(), "app").get_manifest("v1").content == first


def test_what_holds_something_is_left_as_it_is(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    Repository(registry.client(), "app").push_image("v1")
    back_up(registry)
    used = serve({})
    Repository(used.client(), "mine").push_image("v1")
    used.stop()
    used.config.write_text(json.dumps(json.loads(used.config.read_text()) | beginning_from(archive)))
    client = used.start().client()
    assert client.get("/v2/_catalog").json()["repositories"] == ["mine"]
    assert "the registry is not empty" in used.messages()
    # … also when all of it is deleted later.
    client.delete(f"/v2/mine/manifests/{client.get('/v2/mine/manifests/v1').headers['docker-content-digest']}")
    used.stop()
    assert used.start().client().get("/v2/app/tags/list").status_code == 404


def test_it_waits_for_a_backup_and_says_so(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    new = serve(beginning_from(archive), start=False)
    new.start(ready=False)
    until(lambda: "could not be brought back yet" in readiness(new).get("serving", ""), "it says what it waits for")
    assert new.debug("/healthz").status_code == 200, "nobody has to start it anew"
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{new.url}/v2/", timeout=0.5)
    assert "there is no run yet" in new.messages()
    manifest = Repository(registry.client(), "app").push_image("v1")
    back_up(registry)
    until(lambda: readiness(new) == {"status": "ok"}, "it serves")
    assert Repository(new.client(), "app").get_manifest("v1").content == manifest
    assert new.stop() == 0


def test_killed_on_the_way_it_goes_on_with_the_same_run(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    app = Repository(registry.client(), "app")
    manifest = app.push_image("v1", layers=[os.urandom(2 << 20) for _ in range(30)])
    back_up(registry)
    new = serve(beginning_from(archive), start=False)
    new.start(ready=False)
    until(lambda: len(list(new.data.rglob("data"))) > 2, "some is copied")
    new.stop()
    begun = json.loads((new.data / ".regatta/bootstrap").read_text())
    assert not begun["complete"]
    app.push_image("later")
    back_up(registry)
    let_leases_end(new.data)
    app = Repository(new.start().client(), "app")
    assert_there(app, {"v1": manifest})
    assert app.tags() == ["v1"]
    assert json.loads((new.data / ".regatta/bootstrap").read_text()) == {**begun, "complete": True}


def test_told_to_stop_meanwhile_it_ends(serve: Serve, archive: Path) -> None:
    new = serve(beginning_from(archive), start=False, workers=2)
    new.start(ready=False)
    until(lambda: readiness(new), "it is there")
    assert new.stop() == 0


def test_what_the_backup_has_lost_keeps_it_from_serving(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
    back_up(registry)
    blob = blob_path(archive, digest_of(LARGE))
    content = blob.read_bytes()
    blob.unlink()
    new = serve(beginning_from(archive), start=False)
    new.start(ready=False)
    until(lambda: f"{digest_of(LARGE)} is not in storage" in new.messages(), "it says what is missing")
    assert readiness(new)["status"] == "unavailable"
    blob.write_bytes(content)
    until(lambda: readiness(new) == {"status": "ok"}, "it serves once that is there")


def test_what_the_registry_had_lost_itself_does_not(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    app = Repository(registry.client(), "app")
    whole = app.push_image("whole")
    app.push_image("broken", layers=[LARGE])
    blob_path(registry.data, digest_of(LARGE)).unlink()
    assert command(registry, "run").exit_code == 1
    new = serve(beginning_from(archive))
    assert_there(Repository(new.client(), "app"), {"whole": whole})
    assert "not all as it was" in new.messages()


def test_a_folder_that_is_not_there_is_said(serve: Serve, tmp_path: Path) -> None:
    new = serve(beginning_from(tmp_path / "nowhere"), start=False)
    new.start(ready=False)
    until(lambda: "bootstrap.source.filesystem" in new.messages(), "it is said")
    assert "is no folder; create it, or mount what it is on" in new.messages()
    os.kill(new.process.pid, signal.SIGTERM)
    assert new.process.wait() == 0
