"""Backups into buckets and from them, and what becomes of one whose store goes away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_server.reference import Digest
from registry_server.storage.objectstore.storage import ObjectStorage
from tests.fixtures.tools import Need
from tests.objectstore.conftest import Serve
from tests.objectstore.stores import Store, store
from tests.server.content import Repository, unique
from tests.server.live import LiveRegistry, several
from tests.server.test_backup import LARGE, assert_there, back_up, command, destination, fill, let_leases_end

pytestmark = pytest.mark.usefixtures("where_the_store_is")


def in_bucket(shared: Store, folder: Path) -> dict[str, Any]:
    """Backups below a prefix of their own."""
    return {"backup": {"destination": {shared.kind: shared.storage(f"/backups-{folder.name}")[shared.kind]}}}


@pytest.fixture
def on_files(tmp_path: Path) -> Iterator[Serve]:
    """Starts registries on a file system."""
    with several(tmp_path / "on-files") as start:
        yield start


def test_from_a_file_system_into_a_bucket_and_back_onto_a_bucket(
    on_files: Serve, serve: Serve, shared: Store, tmp_path: Path
) -> None:
    there = in_bucket(shared, tmp_path)
    registry: LiveRegistry = on_files(there, environ=shared.environ)
    manifests = fill(Repository(registry.client(), "team/app"))
    assert back_up(registry)["copied"] > 0
    assert back_up(registry)["copied"] == 0
    assert command(registry, "verify").exit_code == 0
    restored = serve(there, start=False)
    result = command(restored, "restore")
    assert result.exit_code == 0, result.output
    assert_there(Repository(restored.start().client(), "team/app"), manifests)


def test_from_a_bucket_onto_a_file_system_and_back(
    on_files: Serve, serve: Serve, shared: Store, tmp_path: Path
) -> None:
    (tmp_path / "backups").mkdir()
    there = destination(tmp_path / "backups")
    registry = serve(there)
    manifests = fill(Repository(registry.client(), "team/app"))
    back_up(registry)
    restored = on_files(there, start=False)
    assert command(restored, "restore").exit_code == 0
    assert_there(Repository(restored.start().client(), "team/app"), manifests)
    again = serve(there, start=False)
    back_up(restored)
    assert command(again, "restore").exit_code == 0
    assert_there(Repository(again.start().client(), "team/app"), manifests)


def test_what_only_forgotten_runs_had_goes_from_a_bucket(on_files: Serve, shared: Store, tmp_path: Path) -> None:
    settings = in_bucket(shared, tmp_path)
    settings["backup"]["keep"] = {"last": 1}
    registry = on_files(settings, environ=shared.environ)
    app = Repository(registry.client(), "app")
    app.push_image("v1", layers=[LARGE])
    back_up(registry)
    manifest = app.push_image("v2")
    back_up(registry)
    assert "1 runs, 1 contents" in command(registry, "prune").stdout, "its index; all else is in the other run as well"
    assert command(registry, "verify").exit_code == 0
    assert_there(app, {"v2": manifest})


@pytest.mark.parametrize("shared", ["s3"], indirect=True)
def test_a_store_that_dies_midway_leaves_the_last_run_as_it_was(
    on_files: Serve, need: Need, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store("s3", need, tmp_path / "s3") as own:
        registry = on_files(in_bucket(own, tmp_path))
        app = Repository(registry.client(), "app")
        manifests = {"v1": app.push_image("v1")}
        good = back_up(registry)
        manifests["v2"] = app.push_image("v2", layers=[unique() for _ in range(20)])
        write_blob, left = ObjectStorage.write_blob, iter(range(5))

        async def die(storage: ObjectStorage, digest: Digest, content: bytes) -> None:
            if next(left, None) is None:
                own.stop()
            await write_blob(storage, digest, content)

        with monkeypatch.context() as dying:
            dying.setattr(ObjectStorage, "write_blob", die)
            result = command(registry, "run")
        assert result.exit_code == 1
        assert "run it again, it goes on where it stopped" in result.stderr
        own.start()
        let_leases_end(own.files(f"backups-{tmp_path.name}").parents[2], registry.data)
        assert command(registry, "verify", good["id"]).exit_code == 0
        assert 0 < back_up(registry)["copied"] < 21
        restored = on_files(in_bucket(own, tmp_path), start=False)
        assert command(restored, "restore").exit_code == 0
        assert_there(Repository(restored.start().client(), "app"), manifests)
