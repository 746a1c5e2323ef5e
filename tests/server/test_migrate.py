"""`registry-server migrate`: all of a registry moves to another storage or metadata driver while it serves."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry_server.cli import main
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import Repository, digest_of
from tests.server.live import LiveRegistry, until
from tests.server.test_backup import LARGE, assert_there, fill


def migrate(old: LiveRegistry, new: LiveRegistry, *words: str) -> Result:
    result = CliRunner().invoke(main, ["migrate", str(old.config), str(new.config), *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def become_read_only(registry: LiveRegistry) -> None:
    """The server follows its configuration."""
    settings = json.loads(registry.config.read_text())
    settings["storage"]["maintenance"] = {"readonly": {"enabled": True}}
    registry.config.write_text(json.dumps(settings))
    client = registry.client()
    until(lambda: client.post("/v2/app/blobs/uploads/").status_code == 405, "it takes no pushes")


@pytest.fixture
def old(serve: Serve) -> LiveRegistry:
    return serve({})


@pytest.mark.parametrize("driver", METADATA)
def test_it_moves_while_the_registry_serves(
    old: LiveRegistry, serve: Serve, driver: str, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    app = Repository(old.client(), "team/app")
    made = fill(app)
    moved, gone = app.push_image("moved"), app.push_image("gone")
    new = serve(metadata_settings(driver, request, tmp_path), start=False)
    first = migrate(old, new)
    assert first.exit_code == 0, first.output
    assert "nothing differs" in first.output
    # The registry goes on meanwhile, in each way there is.
    later = Repository(old.client(), "later").push_image("v1")
    newer = app.push_image("moved")
    old.client().delete(f"/v2/team/app/manifests/{digest_of(gone)}")
    become_read_only(old)
    second = migrate(old, new, "--format", "json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["copied"] == 4, "what came since, and nothing again"
    old.stop()
    new.start()
    client = new.client()
    assert client.get("/v2/_catalog").json()["repositories"] == ["later", "team/app"]
    assert_there(Repository(client, "team/app"), made)
    assert Repository(client, "later").get_manifest("v1").content == later
    assert Repository(client, "team/app").get_manifest("moved").content == newer
    assert Repository(client, "team/app").get_manifest(digest_of(moved)).content == moved
    assert Repository(client, "team/app").get_manifest("gone").status_code == 404
    Repository(client, "team/app").push_image("goes-on")


def test_what_can_not_be_moved_is_named(old: LiveRegistry, serve: Serve) -> None:
    """All else is moved."""
    app = Repository(old.client(), "app")
    app.push_image("v1", layers=[LARGE])
    other = app.push_image("v2")
    data = old.root / f"blobs/sha256/{digest_of(LARGE)[7:9]}/{digest_of(LARGE)[7:]}/data"
    data.write_bytes(b"damaged" + LARGE[7:])
    new = serve({}, start=False)
    result = migrate(old, new)
    assert result.exit_code == 1
    assert f"{digest_of(LARGE)} is damaged in storage" in result.stderr
    assert "differences are left" in result.stdout
    new.start()
    assert Repository(new.client(), "app").get_manifest("v2").content == other
    assert Repository(new.client(), "app").get_blob(digest_of(LARGE)).status_code == 404


def test_a_server_on_the_new_place_is_in_the_way(old: LiveRegistry, serve: Serve) -> None:
    result = migrate(old, serve({}))
    assert result.exit_code == 2
    assert "a server runs on the new place already" in result.stderr


def test_there_must_be_something_to_move(old: LiveRegistry) -> None:
    result = migrate(old, old)
    assert result.exit_code == 2
    assert "there is nothing to move" in result.stderr
