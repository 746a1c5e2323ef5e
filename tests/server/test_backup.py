"""`registry-server backup` and `restore`: what a registry held comes back, onto whichever drivers."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry_server.cli import main
from registry_server.config import Keep
from registry_server.jobs.backup import Run, kept_by
from registry_server.metadata.contract import Holdings, LinkedBlob
from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import Digest
from registry_server.registry.manifest import understand
from registry_server.storage.contract import StorageFull
from registry_server.storage.filesystem import FilesystemStorage
from tests.server import fire
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import OCI_INDEX, Repository, descriptor, digest_of, image, index, unique
from tests.server.live import LiveRegistry, until
from tests.server.test_garbage import garbage_collect

LARGE = os.urandom(3 << 20)
"""More than is copied at once."""


def destination(folder: Path) -> dict[str, Any]:
    return {"backup": {"destination": {"filesystem": {"rootdirectory": str(folder)}}}}


@pytest.fixture
def registry(serve: Serve, archive: Path) -> LiveRegistry:
    return serve(destination(archive), workers=2)


def command(registry: LiveRegistry, *words: str) -> Result:
    environ = {name: str(value) for name, value in registry.environ.items()}
    first, *others = words
    verb = ["restore"] if first == "restore" else ["backup", first]
    result = CliRunner().invoke(main, [*verb, str(registry.config), *others], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def back_up(registry: LiveRegistry) -> dict[str, Any]:
    result = command(registry, "run", "--format", "json")
    assert result.exit_code == 0, result.output
    run: dict[str, Any] = json.loads(result.stdout)
    return run


def fill(repository: Repository) -> dict[str, bytes]:
    """Pushes one of each kind; returns the manifests by tag, and by digest for those without one."""
    child = repository.push_image()
    multi = index([child])
    repository.push_manifest(multi, "multi", OCI_INDEX)
    by_sha512 = unique("by sha512")
    repository.push_blob(by_sha512, "sha512")
    layer = {**descriptor(by_sha512), "digest": digest_of(by_sha512, "sha512")}
    modern = json.dumps(json.loads(image()) | {"layers": [layer]}).encode()
    manifests = {"multi": multi, digest_of(child): child, "large": repository.push_image("large", layers=[LARGE])}
    repository.push_manifest(modern, "modern")
    signature = image(b"{}", [], subject=descriptor(manifests["large"]))
    repository.push_manifest(signature)
    return {**manifests, "modern": modern, digest_of(signature): signature}


def assert_there(repository: Repository, manifests: dict[str, bytes]) -> None:
    """Everything can be pulled, layers and all."""
    for reference, manifest in manifests.items():
        assert repository.get_manifest(reference).content == manifest
        document = json.loads(manifest)
        for layer in (document["config"], *document["layers"]) if "layers" in document else ():
            algorithm = layer["digest"].partition(":")[0]
            assert digest_of(repository.get_blob(layer["digest"]).content, algorithm) == layer["digest"]


def empty(serve: Serve, archive: Path, **more: Any) -> LiveRegistry:
    """A new registry, that is not started, with the backups of another."""
    return serve({**destination(archive), **more}, start=False)


class TestRoundTrip:
    @pytest.mark.parametrize("source", METADATA)
    @pytest.mark.parametrize("target", METADATA)
    def test_it_comes_back_on_any_metadata_driver(
        self, source: str, target: str, request: pytest.FixtureRequest, serve: Serve, archive: Path, tmp_path: Path
    ) -> None:
        registry = serve({**destination(archive), **metadata_settings(source, request, tmp_path)})
        manifests = fill(Repository(registry.client(), "team/app"))
        other = Repository(registry.client(), "other").push_image("v1")
        loose = unique()
        Repository(registry.client(), "loose").push_blob(loose)
        run = back_up(registry)
        assert (run["repositories"], run["tags"], run["problems"]) == (3, 4, [])
        registry.stop()

        (tmp_path / "target").mkdir()
        restored = empty(serve, archive, **metadata_settings(target, request, tmp_path / "target"))
        result = command(restored, "restore")
        assert result.exit_code == 0, result.output
        assert "3 repositories, 4 tags, 6 manifests: proven to be as it was" in result.stdout
        client = restored.start().client()
        team = Repository(client, "team/app")
        assert_there(team, manifests)
        assert team.tags() == ["large", "modern", "multi"]
        assert [one["digest"] for one in team.referrers(digest_of(manifests["large"]))] == [list(manifests)[-1]]
        assert Repository(client, "other").get_manifest("v1").content == other
        assert Repository(client, "loose").get_blob(digest_of(loose)).content == loose
        Repository(client, "team/app").push_image("goes-on")

    def test_what_is_there_is_not_copied_again(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        app.push_image("v1", layers=[LARGE])
        first = back_up(registry)
        assert first["copied"] == first["contents"] == 3
        second = back_up(registry)
        assert (second["copied"], second["copied_bytes"], second["contents"]) == (0, 0, 3)
        assert second["index"] == first["index"]
        new = app.push_image("v2", layers=[LARGE], annotations={"is": "another"})
        third = back_up(registry)
        assert (third["copied"], third["copied_bytes"]) == (1, len(new))

    def test_an_old_run_comes_back_as_it_was(self, registry: LiveRegistry, serve: Serve, archive: Path) -> None:
        app = Repository(registry.client(), "app")
        first = app.push_image("latest")
        run = back_up(registry)
        app.push_image("latest")
        app.client.delete(f"{app.path}/manifests/{digest_of(first)}")
        registry.stop()
        garbage_collect(registry)
        registry.start()
        assert Repository(registry.client(), "app").get_manifest(digest_of(first)).status_code == 404
        assert command(registry, "restore", "--run", run["id"]).exit_code == 0
        assert_there(Repository(registry.client(), "app"), {"latest": first})

    def test_in_place_what_came_since_stays(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        old = app.push_image("v1")
        back_up(registry)
        new, moved = app.push_image("v2"), app.push_image("v1")
        assert command(registry, "restore").exit_code == 0
        assert_there(app, {"v1": old, "v2": new, digest_of(moved): moved})

    def test_a_second_time_copies_nothing(self, registry: LiveRegistry, serve: Serve, archive: Path) -> None:
        Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
        back_up(registry)
        restored = empty(serve, archive)
        assert "3 contents" in command(restored, "restore").stdout
        assert "; 0 contents" in command(restored, "restore").stdout

    def test_nothing_is_left_of_what_was_on_its_way(self, registry: LiveRegistry, serve: Serve, archive: Path) -> None:
        Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
        back_up(registry)
        restored = empty(serve, archive)
        command(restored, "restore")
        assert [path.name for path in (restored.root / "repositories").iterdir()] == ["app"]


class TestChoice:
    def test_of_repositories_and_tags(self, registry: LiveRegistry, serve: Serve, archive: Path) -> None:
        client = registry.client()
        manifests = fill(Repository(client, "team/app"))
        for name in ("team/other", "left/out"):
            Repository(client, name).push_image("v1")
        back_up(registry)
        restored = empty(serve, archive)
        result = command(restored, "restore", "team/o*", "team/app:large", "team/app:multi")
        assert result.exit_code == 0, result.output
        client = restored.start().client()
        assert client.get("/v2/_catalog").json()["repositories"] == ["team/app", "team/other"]
        app = Repository(client, "team/app")
        assert app.tags() == ["large", "multi"]
        del manifests["modern"]
        assert_there(app, manifests)
        assert len(app.referrers(digest_of(manifests["large"]))) == 1

    def test_what_is_not_there_is_said(self, registry: LiveRegistry) -> None:
        assert "there is no run yet" in command(registry, "restore").stderr
        Repository(registry.client(), "app").push_image("v1")
        back_up(registry)
        for words in (("nothing/**",), ("app:nothing",), ("--run", "20200101T000000Z")):
            result = command(registry, "restore", *words)
            assert result.exit_code == 1
            assert "backup list" in result.stderr

    def test_a_dry_run_changes_nothing(self, registry: LiveRegistry, serve: Serve, archive: Path) -> None:
        Repository(registry.client(), "app").push_image("v1")
        back_up(registry)
        restored = empty(serve, archive)
        assert "1 repositories, 1 tags, 1 manifests: would be" in command(restored, "restore", "--dry-run").stdout
        assert not (restored.root / "repositories").exists()


class TestInterruption:
    @pytest.mark.parametrize("verb", ["run", "restore"])
    def test_a_killed_one_harms_nothing_and_the_next_goes_on(
        self, verb: str, registry: LiveRegistry, serve: Serve, archive: Path
    ) -> None:
        app = Repository(registry.client(), "app")
        first = app.push_image("v1")
        good = back_up(registry)
        manifest = app.push_image("v2", layers=[os.urandom(2 << 20) for _ in range(30)])
        target = registry
        if verb == "restore":
            good = back_up(registry)
            target = empty(serve, archive)
        grows = (archive if verb == "run" else target.data) / "docker/registry/v2/blobs"
        before = len(list(grows.rglob("data")))
        words = ["backup", "run"] if verb == "run" else ["restore"]
        process = subprocess.Popen([sys.executable, "-m", "registry_server", *words, str(target.config)])
        until(lambda: len(list(grows.rglob("data"))) > before + 2, "some is copied")
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was not done yet"

        runs = json.loads(command(registry, "list", "--format", "json").stdout)
        assert runs[-1]["id"] == good["id"], "what was broken off is no run"
        let_leases_end(registry.data, archive, target.data)
        if verb == "run":
            assert command(registry, "verify", good["id"]).exit_code == 0
            made = back_up(registry)
            assert 0 < made["copied"] < 31, "what was copied is not copied again"
            target = empty(serve, archive)
        assert command(target, "restore").exit_code == 0
        assert_there(Repository(target.start().client(), "app"), {"v1": first, "v2": manifest})
        assert not list(archive.glob("docker/registry/v2/repositories/*"))

    def test_a_full_disk_leaves_the_last_run_as_it_was(
        self, registry: LiveRegistry, serve: Serve, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = Repository(registry.client(), "app")
        first = app.push_image("v1")
        good = back_up(registry)
        second = app.push_image("v2", layers=[unique() for _ in range(20)])
        write_blob, left = FilesystemStorage.write_blob, iter(range(5))

        async def fail(storage: FilesystemStorage, digest: Digest, content: bytes) -> None:
            if next(left, None) is None:
                raise StorageFull("no space left on device")
            await write_blob(storage, digest, content)

        with monkeypatch.context() as full:
            full.setattr(FilesystemStorage, "write_blob", fail)
            result = command(registry, "run")
        assert result.exit_code == 1
        assert "no space left on device; nothing is lost: run it again" in result.stderr
        assert command(registry, "verify", good["id"]).exit_code == 0
        assert len(json.loads(command(registry, "list", "--format", "json").stdout)) == 1
        assert back_up(registry)["copied"] == 16
        restored = empty(serve, archive)
        assert command(restored, "restore").exit_code == 0
        assert_there(Repository(restored.start().client(), "app"), {"v1": first, "v2": second})


class TestDamage:
    def test_what_the_registry_has_lost_is_said_and_all_else_is_kept(
        self, registry: LiveRegistry, serve: Serve, archive: Path
    ) -> None:
        app = Repository(registry.client(), "app")
        whole, broken = app.push_image("whole"), app.push_image("broken", layers=[LARGE])
        lost = app.push_image("lost", layers=[b"lost layer"])
        flip(registry.data, digest_of(LARGE))
        blob_path(registry.data, digest_of(b"lost layer")).unlink()
        result = command(registry, "run", "--format", "json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["problems"] == [
            f"{digest_of(LARGE)} is damaged in storage",
            f"{digest_of(b'lost layer')} is not in storage",
        ]
        restored = empty(serve, archive)
        result = command(restored, "restore")
        assert result.exit_code == 1
        assert f"{digest_of(LARGE)} is not in storage" in result.stderr
        app = Repository(restored.start().client(), "app")
        assert_there(app, {"whole": whole})
        assert app.get_manifest("broken").content == broken
        assert app.get_manifest("lost").content == lost

    @pytest.mark.parametrize("damage", ["flipped", "lost"])
    def test_what_the_backup_has_lost_is_found(self, registry: LiveRegistry, archive: Path, damage: str) -> None:
        Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
        run = back_up(registry)
        result = command(registry, "verify")
        assert (result.exit_code, "3 contents" in result.stdout) == (0, True)
        flip(archive, digest_of(LARGE)) if damage == "flipped" else blob_path(archive, digest_of(LARGE)).unlink()
        result = command(registry, "verify", run["id"])
        assert result.exit_code == 1
        said = "damaged" if damage == "flipped" else "lost"
        assert f"{digest_of(LARGE)} is {said} in the backup" in result.stderr

    def test_a_bit_that_has_flipped_in_the_registry_is_mended(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        manifest = app.push_image("v1", layers=[LARGE])
        back_up(registry)
        flip(registry.data, digest_of(LARGE))
        assert app.get_blob(digest_of(LARGE)).content != LARGE
        result = command(registry, "restore")
        assert result.exit_code == 0
        assert "1 contents (3.0MiB) copied" in result.stdout
        assert_there(app, {"v1": manifest})

    def test_an_index_that_is_damaged_is_no_backup(self, registry: LiveRegistry, archive: Path) -> None:
        Repository(registry.client(), "app").push_image("v1")
        run = back_up(registry)
        flip(archive, run["index"])
        for words in (("restore",), ("verify",), ("prune",)):
            result = command(registry, *words)
            assert result.exit_code == 1
            assert f"run {run['id']} can't be used: its index is damaged" in result.stderr

    def test_a_run_that_is_damaged_is_told_beside_the_others(self, registry: LiveRegistry, archive: Path) -> None:
        app = Repository(registry.client(), "app")
        app.push_image("v1")
        whole = back_up(registry)
        app.push_image("v2")
        broken = back_up(registry)
        (archive / ".regatta/backups" / broken["id"]).write_text("{")
        result = command(registry, "list", "--format", "json")
        assert result.exit_code == 1
        assert [one["id"] for one in json.loads(result.stdout)] == [whole["id"]]
        assert f"run {broken['id']} can't be read: its file is damaged" in result.stderr
        assert command(registry, "prune").exit_code == 1, "nobody knows what it needs"
        assert command(registry, "restore", "--run", whole["id"]).exit_code == 0


class TestSignature:
    @pytest.fixture
    def signed(self, serve: Serve, archive: Path, tmp_path: Path) -> LiveRegistry:
        key = tmp_path / "key"
        key.write_text("a key of the tests, which is long enough\n")
        settings = destination(archive)
        settings["backup"]["keyfile"] = str(key)
        return serve(settings)

    def test_a_run_is_restored_by_who_knows_the_key(self, signed: LiveRegistry) -> None:
        Repository(signed.client(), "app").push_image("v1")
        back_up(signed)
        assert command(signed, "restore").exit_code == 0

    @pytest.mark.parametrize("forgery", ["another index", "no signature", "another key"])
    def test_one_that_was_changed_is_refused(
        self, signed: LiveRegistry, archive: Path, tmp_path: Path, forgery: str
    ) -> None:
        app = Repository(signed.client(), "app")
        app.push_image("v1")
        first = back_up(signed)
        app.push_image("v2")
        run = back_up(signed)
        file = archive / ".regatta/backups" / run["id"]
        document = json.loads(file.read_text())
        if forgery == "another index":
            document["index"] = first["index"]
        elif forgery == "no signature":
            document["signature"] = None
        else:
            (tmp_path / "key").write_text("another key of the tests, long enough as well")
        file.write_text(json.dumps(document))
        result = command(signed, "restore")
        assert result.exit_code == 1
        assert f"run {run['id']} was not signed with the key" in result.stderr

    def test_a_key_that_is_easily_guessed_is_refused(self, signed: LiveRegistry, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("short")
        result = command(signed, "run")
        assert result.exit_code == 2
        assert "openssl rand" in result.stderr


class TestPruning:
    def test_what_only_forgotten_runs_had_goes(self, serve: Serve, archive: Path) -> None:
        settings = destination(archive)
        settings["backup"]["keep"] = {"last": 1}
        registry = serve(settings)
        app = Repository(registry.client(), "app")
        old = app.push_image("v1", layers=[LARGE])
        back_up(registry)
        app.client.delete(f"{app.path}/manifests/{digest_of(old)}")
        app.client.delete(f"{app.path}/blobs/{digest_of(LARGE)}")
        new = app.push_image("v2")
        last = back_up(registry)
        before = set(archive.rglob("data"))
        said = command(registry, "prune", "--dry-run", "--format", "json").stdout
        assert set(archive.rglob("data")) == before
        assert command(registry, "prune", "--format", "json").stdout == said
        gone = {path.parent.name for path in before - set(archive.rglob("data"))}
        assert digest_of(LARGE)[7:] in gone
        assert json.loads(said)["contents"] == len(gone) == 3, "the layer, its manifest, and the index"
        assert command(registry, "verify").exit_code == 0
        restored = empty(serve, archive)
        assert command(restored, "restore").exit_code == 0
        assert_there(Repository(restored.start().client(), "app"), {"v2": new})
        runs = json.loads(command(registry, "list", "--format", "json").stdout)
        assert [one["id"] for one in runs] == [last["id"]]

    def test_without_a_rule_nothing_goes(self, registry: LiveRegistry) -> None:
        Repository(registry.client(), "app").push_image("v1")
        for _ in range(3):
            back_up(registry)
        assert json.loads(command(registry, "prune", "--format", "json").stdout) == {
            "runs": [],
            "contents": 0,
            "bytes": 0,
        }

    @pytest.mark.parametrize(
        ("keep", "kept"),
        [
            ({"last": 2}, ["31T20", "31T23"]),
            ({"hourly": 3}, ["31T11", "31T20", "31T23"]),
            ({"daily": 3}, ["29T23", "30T23", "31T23"]),
            ({"weekly": 2}, ["25T23", "31T23"]),
            ({"monthly": 5}, ["31T23"]),
            ({"last": 1, "daily": 2}, ["30T23", "31T23"]),
            ({"weekly": 1, "hourly": 2}, ["31T20", "31T23"]),
        ],
    )
    def test_the_last_run_of_each_period_is_kept(self, keep: dict[str, int], kept: list[str]) -> None:
        """Of a January with runs at 11, 20 and 23 o'clock of each day; its 25th was a Sunday, its 31st a Saturday."""
        days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(31)]
        runs = [_made(day + timedelta(hours=hour)) for day in days for hour in (11, 20, 23)]
        assert [run.id[6:11] for run in kept_by(Keep(**keep), runs)] == kept


def test_under_fire_each_run_is_whole(registry: LiveRegistry, serve: Serve, archive: Path) -> None:
    """Whatever was pushed, moved or deleted while it was read."""
    burnt = fire.rage(registry.client, lambda: back_up(registry)["copied"], cycles=300, patience=60)
    assert burnt.faults == []
    assert burnt.collections > 1
    runs = json.loads(command(registry, "list", "--format", "json").stdout)
    for run in runs[:: max(len(runs) // 3, 1)]:
        restored = empty(serve, archive)
        result = command(restored, "restore", "--run", run["id"])
        assert result.exit_code == 0, result.output
        client = restored.start().client()
        for name in client.get("/v2/_catalog").json()["repositories"]:
            repository = Repository(client, name)
            assert_there(repository, {tag: repository.get_manifest(tag).content for tag in repository.tags()})
        restored.stop()


def test_what_is_pushed_while_a_repository_is_read_is_there_as_a_whole(tmp_path: Path) -> None:
    """A manifest that is found has its layers found, and a tag its manifest."""
    layer = b"layer"
    manifest = image(b"{}", [layer])
    digest = Digest.of(manifest)

    class Pushing(LayoutMetadata):
        async def _revisions(self, repository: str) -> Any:
            await self.link_blobs(repository, [LinkedBlob(Digest.of(one), len(one)) for one in (b"{}", layer)])
            await storage.write_blob(digest, manifest)
            await self.link_manifests(repository, [understand(digest, manifest)], tags={"v1": digest})
            return await super()._revisions(repository)

    async def scenario() -> Holdings:
        await LayoutMetadata(storage, understand).link_blobs("app", [LinkedBlob(Digest.of(b"other"), 5)])
        return await Pushing(storage, understand).holdings("app")

    storage = FilesystemStorage(str(tmp_path))
    held = asyncio.run(scenario())
    assert set(held.manifests) == {digest}
    assert {Digest.of(b"{}"), Digest.of(layer)} <= set(held.blobs)


def test_a_destination_that_would_be_lost_with_the_registry_is_refused(serve: Serve, tmp_path: Path) -> None:
    data = tmp_path / "data"
    storage = {"filesystem": {"rootdirectory": str(data)}}
    for folder in (data, data / "backups", tmp_path):
        registry = serve({"storage": storage, **destination(folder)}, start=False)
        result = command(registry, "run")
        assert result.exit_code == 2
        assert "a backup has to survive the loss of the registry" in result.stderr


def test_a_destination_that_is_not_mounted_is_not_made(serve: Serve, tmp_path: Path) -> None:
    result = command(serve(destination(tmp_path / "not there"), start=False), "run")
    assert result.exit_code == 2
    assert "is no folder; create it, or mount what it is on" in result.stderr
    assert not (tmp_path / "not there").exists()


def test_an_index_that_leads_out_of_the_registry_is_refused(registry: LiveRegistry, archive: Path) -> None:
    """As someone could write who has the destination."""
    Repository(registry.client(), "app").push_image("v1")
    run = back_up(registry)
    line = {"repository": "../../../out", "tags": {}, "manifests": {}, "blobs": {}}
    index = gzip.compress(f'{{"version": 1}}\n{json.dumps(line)}'.encode())
    path = blob_path(archive, digest_of(index))
    path.parent.mkdir(parents=True)
    path.write_bytes(index)
    record = archive / ".regatta/backups" / run["id"]
    record.write_text(json.dumps(json.loads(record.read_text()) | {"index": digest_of(index)}))
    result = command(registry, "restore")
    assert result.exit_code == 1
    assert "names what can't be a repository" in result.stderr


def test_without_a_destination_it_is_said_how_to_name_one(serve: Serve) -> None:
    result = command(serve(start=False), "run")
    assert result.exit_code == 2
    assert "backup: {destination:" in result.stderr


def test_the_list_is_for_people_and_for_programs(registry: LiveRegistry) -> None:
    Repository(registry.client(), "app").push_image("v1")
    run = back_up(registry)
    assert run["id"] in command(registry, "list").stdout
    assert abs(time.time() - datetime.strptime(run["id"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()) < 60


def _made(at: datetime) -> Run:
    return Run(at.strftime("%Y%m%dT%H%M%SZ"), "", "", *[0] * 7)


def blob_path(root: Path, digest: str, *, layout: str = "docker/registry/v2/blobs/") -> Path:
    """The file of a content."""
    return root / f"{layout}sha256/{digest[7:9]}/{digest[7:]}/data"


def flip(root: Path, digest: str) -> None:
    """Flips a bit in the middle of a content, as disks do."""
    path = blob_path(root, digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def let_leases_end(*roots: Path) -> None:
    """As if the minutes had passed after which a killed job is taken for dead."""
    long_ago = time.time() - 3600
    for root in roots:
        for lease in root.glob(".regatta/leases/*"):
            os.utime(lease, (long_ago, long_ago))


def test_a_server_finds_out_that_its_backup_is_damaged(serve: Serve, archive: Path) -> None:
    settings = destination(archive)
    settings["backup"] |= {"interval": "1s", "verify": True}
    registry = serve(settings)
    Repository(registry.client(), "app").push_image("v1", layers=[LARGE])
    until(lambda: registry.metric("regatta_job_success", name="backup") == 1, "it is made")
    flip(archive, digest_of(LARGE))
    until(lambda: registry.metric("regatta_job_success", name="backup") == 0, "it is told")
    assert f"{digest_of(LARGE)} is damaged in the backup" in registry.messages()


def test_a_server_backs_up_and_prunes_at_its_interval(serve: Serve, archive: Path) -> None:
    settings = destination(archive)
    settings["backup"] |= {"interval": "1s", "keep": {"last": 2}}
    registry = serve(settings, workers=2)
    manifest = Repository(registry.client(), "app").push_image("v1")
    records = archive / ".regatta/backups"
    until(lambda: "backup: 1 runs, " in registry.messages(), "the first is pruned")
    until(lambda: registry.metric("regatta_job_success", name="backup") == 1, "it is told")
    assert registry.metric("regatta_job_bytes", name="backup", what="held") > len(manifest)
    registry.stop()
    assert len(list(records.iterdir())) in (2, 3), "one more where the stop came before the pruning"
    restored = empty(serve, archive)
    assert command(restored, "restore").exit_code == 0
    assert_there(Repository(restored.start().client(), "app"), {"v1": manifest})
