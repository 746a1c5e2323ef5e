"""`registry-server scrub`: a bit that has flipped is found, refused to clients, and mended."""

import json
import time
from pathlib import Path

from click.testing import CliRunner, Result

from registry_server.cli import main
from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of, unique
from tests.server.live import LiveRegistry, until
from tests.server.test_backup import LARGE, assert_there, back_up, blob_path, destination, flip


def scrub(registry: LiveRegistry, *options: str) -> Result:
    result = CliRunner().invoke(main, ["scrub", str(registry.config), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_is_whole_stays_as_it_is(serve: Serve) -> None:
    registry = serve()
    manifest = Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
    result = scrub(registry)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3 contents (3.0MiB): 3 whole" in result.stdout
    assert_there(Repository(registry.client(), "app"), {"v1": manifest})


def test_what_is_damaged_is_refused_until_it_is_pushed_again(serve: Serve) -> None:
    registry = serve()
    app = Repository(registry.client(), "app")
    manifest = app.push_image("v1", layers=[LARGE])
    flip(registry.data, digest_of(LARGE))
    result = scrub(registry)
    assert result.exit_code == 1
    assert f"{digest_of(LARGE)} is damaged and in quarantine" in result.stderr
    assert app.get_blob(digest_of(LARGE)).status_code == 404
    assert blob_path(registry.data / ".regatta/quarantine", digest_of(LARGE), layout="").exists()
    app.push_blob(LARGE)
    assert_there(app, {"v1": manifest})
    assert scrub(registry).exit_code == 0


def test_what_is_damaged_is_healed_from_the_backup(serve: Serve, archive: Path) -> None:
    registry = serve(destination(archive))
    app = Repository(registry.client(), "app")
    manifest = app.push_image("v1", layers=[LARGE])
    back_up(registry)
    lost = unique()
    app.push_blob(lost)
    for damaged in (LARGE, manifest, lost):
        flip(registry.data, digest_of(damaged))
    result = scrub(registry, "--format", "json")
    assert result.exit_code == 1, "what no backup has is in quarantine"
    found = {one["digest"]: one["state"] for one in map(json.loads, result.stdout.splitlines())}
    assert found == {digest_of(LARGE): "healed", digest_of(manifest): "healed", digest_of(lost): "quarantined"}
    assert_there(app, {"v1": manifest})


def test_a_backup_that_is_damaged_as_well_heals_nothing(serve: Serve, archive: Path) -> None:
    registry = serve(destination(archive))
    app = Repository(registry.client(), "app")
    app.push_image("v1", layers=[LARGE])
    back_up(registry)
    flip(registry.data, digest_of(LARGE))
    flip(archive, digest_of(LARGE))
    assert scrub(registry).exit_code == 1
    assert app.get_blob(digest_of(LARGE)).status_code == 404


def test_it_reads_no_faster_than_it_may(serve: Serve) -> None:
    registry = serve({"scrub": {"rate": "2MiB"}})
    Repository(registry.client(), "app").push_blob(LARGE)
    began = time.monotonic()
    scrub(registry)
    assert time.monotonic() - began >= 3 / 2


def test_one_that_was_broken_off_goes_on_where_it_stopped(serve: Serve) -> None:
    registry = serve()
    digests = sorted(Repository(registry.client(), "app").push_blob(unique()) for _ in range(10))
    (registry.data / ".regatta/scrub-position").write_text(digests[6])
    assert "3 contents" in scrub(registry).stdout
    assert "10 contents" in scrub(registry).stdout, "and then begins anew"


def test_a_server_scrubs_at_its_interval_and_tells_what_it_found(serve: Serve) -> None:
    registry = serve({"scrub": {"interval": "1s"}})
    app = Repository(registry.client(), "app")
    app.push_blob(LARGE)
    until(lambda: registry.metric("regatta_job_success", name="scrub") == 1, "all is whole")
    flip(registry.data, digest_of(LARGE))
    until(lambda: app.get_blob(digest_of(LARGE)).status_code == 404, "it is refused")
    until(lambda: registry.metric("regatta_job_bytes", name="scrub", what="quarantined") == len(LARGE), "it is told")
    assert "is damaged and in quarantine" in registry.messages()


def test_the_collector_leaves_a_quarantine_alone(serve: Serve) -> None:
    registry = serve()
    Repository(registry.client(), "app").push_blob(LARGE)
    flip(registry.data, digest_of(LARGE))
    scrub(registry)
    registry.stop()
    CliRunner().invoke(main, ["garbage-collect", str(registry.config)])
    kept = blob_path(registry.data / ".regatta/quarantine", digest_of(LARGE), layout="")
    assert kept.stat().st_size == len(LARGE)
