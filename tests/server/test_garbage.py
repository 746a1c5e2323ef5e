"""`registry-server garbage-collect`: nothing that anything refers to goes, and nothing else stays."""

import asyncio
import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from registry_server.cli import main
from registry_server.jobs import occupancy
from registry_server.jobs.garbage import Collected, Options, collect
from registry_server.jobs.occupancy import Lease, Occupied, Presence, lease
from registry_server.metadata.contract import LinkedBlob
from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import Digest
from registry_server.registry.manifest import understand
from registry_server.storage.filesystem import FilesystemStorage
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import (
    OCI_INDEX,
    OCI_LAYER,
    Repository,
    descriptor,
    digest_of,
    image,
    index,
    unique,
)
from tests.server.live import LiveRegistry, until

GRACE = {"garbagecollection": {"grace": "1h"}}
LONG_AGO = 2 * 3600


@pytest.fixture(params=METADATA)
def registry(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> LiveRegistry:
    return serve({**GRACE, **metadata_settings(request.param, request, tmp_path)}, workers=2)


@pytest.fixture
def on_files(serve: Serve) -> LiveRegistry:
    return serve(GRACE)


def garbage_collect(registry: LiveRegistry, *options: str) -> Result:
    environ = {name: str(value) for name, value in registry.environ.items()}
    result = CliRunner().invoke(main, ["garbage-collect", str(registry.config), *options], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def contents(registry: LiveRegistry) -> set[str]:
    """The digests of all contents in their places."""
    return {f"sha256:{path.parent.name}" for path in registry.root.glob("blobs/sha256/*/*/data")}


def trash(registry: LiveRegistry) -> set[str]:
    return {f"sha256:{path.parent.name}" for path in registry.data.glob(".regatta/trash/sha256/*/*/data")}


def age(registry: LiveRegistry) -> None:
    """Makes all contents older than the grace period, those in the trash as well."""
    then = time.time() - LONG_AGO
    for path in registry.data.rglob("data"):
        os.utime(path, (then, then))


def all_of(*contents: bytes) -> set[str]:
    return set(map(digest_of, contents))


class TestWithoutServers:
    def test_exactly_what_is_referred_to_stays(self, registry: LiveRegistry) -> None:
        team, other = Repository(registry.client(), "team/app"), Repository(registry.client(), "other")
        shared, own, gone, orphan, foreign, artifact = (unique() for _ in range(6))
        kept = team.push_image("kept", layers=[shared, own])
        deleted = team.push_image("deleted", layers=[shared, gone])
        child = team.push_image(layers=[unique("child")])
        multi = index([child])
        team.push_manifest(multi, "multi", OCI_INDEX)
        team.push_blob(artifact)
        signature = image(b"{}", [artifact], subject=descriptor(kept))
        team.push_manifest(signature)
        team.push_blob(foreign)
        elsewhere = json.loads(image(b"{}", []))
        elsewhere["layers"] = [descriptor(foreign, OCI_LAYER, urls=["https://example.com/layer"])]
        windows = json.dumps(elsewhere).encode()
        team.push_manifest(windows, "windows")
        by_sha512 = unique("by sha512")
        team.push_blob(by_sha512, "sha512")
        layer = descriptor(by_sha512)
        layer["digest"] = digest_of(by_sha512, "sha512")
        modern = json.dumps(json.loads(image()) | {"layers": [layer]}).encode()
        team.push_manifest(modern, "modern")
        other.push_blob(orphan)
        team.client.delete(f"{team.path}/manifests/{digest_of(deleted)}")
        everything = contents(registry)
        registry.stop()

        result = garbage_collect(registry)
        assert result.exit_code == 0, result.output
        assert everything - contents(registry) == all_of(deleted, gone, orphan)
        assert trash(registry) == set()
        assert "3 contents removed" in result.stderr

        registry.start()
        team = Repository(registry.client(), "team/app")
        for reference, manifest in (("kept", kept), ("multi", multi), ("windows", windows), ("modern", modern)):
            assert team.get_manifest(reference).content == manifest
        for blob in (shared, own, artifact, foreign):
            assert team.get_blob(digest_of(blob)).content == blob
        assert team.get_blob(digest_of(by_sha512, "sha512")).content == by_sha512
        assert [one["digest"] for one in team.referrers(digest_of(kept))] == [digest_of(signature)]
        assert team.get_blob(digest_of(gone)).status_code == 404

    def test_a_second_run_finds_nothing(self, registry: LiveRegistry) -> None:
        Repository(registry.client(), "app").push_image("v1")
        Repository(registry.client(), "app").push_blob(unique())
        registry.stop()
        assert "1 contents removed" in garbage_collect(registry).stderr
        assert "no garbage" in garbage_collect(registry).stderr

    def test_untagged_manifests_go_only_when_asked_for_and_only_if_nothing_leads_to_them(
        self, registry: LiveRegistry
    ) -> None:
        app = Repository(registry.client(), "app")
        tagged, child = app.push_image("v1"), app.push_image()
        app.push_manifest(index([child]), "multi", OCI_INDEX)
        moved = app.push_image("latest")
        app.push_image("latest")
        lost_child = app.push_image()
        lost_index = index([lost_child], annotations={"is": "untagged"})
        app.push_manifest(lost_index, media_type=OCI_INDEX)
        signature = _referrer(app, tagged)
        signed_signature = _referrer(app, signature)
        useless = _referrer(app, moved)
        registry.stop()
        before = contents(registry)
        assert garbage_collect(registry).exit_code == 0
        assert contents(registry) == before, "without the option nothing goes"

        result = garbage_collect(registry, "--delete-untagged", "--quiet")
        assert result.exit_code == 0
        assert "4 manifests without a tag" in result.stderr
        app = Repository(registry.start().client(), "app")
        there = {
            digest: app.get_manifest(digest).status_code == 200
            for digest in all_of(tagged, child, signature, signed_signature, moved, lost_child, lost_index, useless)
        }
        assert {digest for digest, found in there.items() if not found} == all_of(
            moved, lost_child, lost_index, useless
        )
        assert not contents(registry) & all_of(moved, lost_child, lost_index, useless)

    def test_a_dry_run_says_what_a_real_one_does_and_does_nothing(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        app.push_image("latest")
        app.push_image("latest")
        app.push_blob(unique())
        registry.stop()
        before = contents(registry)
        said = garbage_collect(registry, "--delete-untagged", "--dry-run", "--format", "json").stdout
        assert contents(registry) == before
        assert garbage_collect(registry, "--delete-untagged", "--format", "json").stdout == said
        gone = [json.loads(line) for line in said.splitlines()]
        assert sorted(one["fate"] for one in gone) == ["blob", "blob", "manifest", "purged", "purged", "purged"]
        assert before - contents(registry) == {one["digest"] for one in gone if one["fate"] == "purged"}
        assert all(one["size"] > 0 for one in gone)

    def test_what_goes_no_longer_counts_for_quotas(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        deleted = app.push_image("v1", layers=[b"x" * 10_000])
        kept = app.push_image("v2")
        app.client.delete(f"{app.path}/manifests/{digest_of(deleted)}")
        assert _used(app) > 10_000
        registry.stop()
        garbage_collect(registry)
        app = Repository(registry.start().client(), "app")
        assert _used(app) == len(kept) + 2 + sum(layer["size"] for layer in json.loads(kept)["layers"])

    def test_a_repository_with_nothing_left_vanishes(self, registry: LiveRegistry) -> None:
        app, other = Repository(registry.client(), "team/gone"), Repository(registry.client(), "team/stays")
        other.push_image("v1")
        app.client.delete(f"{app.path}/manifests/{digest_of(app.push_image('v1'))}")
        registry.stop()
        garbage_collect(registry)
        client = registry.start().client()
        assert client.get("/v2/_catalog").json()["repositories"] == ["team/stays"]
        assert not (registry.root / "repositories/team/gone").exists()
        Repository(client, "team/gone").push_image("v2")
        assert Repository(client, "team/gone").tags() == ["v2"]


class TestBesideAServer:
    def test_what_was_pushed_a_moment_ago_stays(self, registry: LiveRegistry) -> None:
        """As the layers of a push do whose manifest is yet to come."""
        app = Repository(registry.client(), "app")
        layer = unique()
        app.push_blob(layer)
        result = garbage_collect(registry)
        assert "a server uses this storage" in result.stderr
        assert "no garbage" in result.stderr
        app.push_blob(b"{}")
        app.push_manifest(image(b"{}", [layer]), "v1")
        assert app.get_blob(digest_of(layer)).content == layer

    def test_garbage_goes_into_the_trash_and_is_removed_a_grace_period_later(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        layer = unique()
        app.push_blob(layer)
        kept = app.push_image("v1")
        age(registry)
        assert "1 contents into the trash" in garbage_collect(registry).stderr
        assert (trash(registry), digest_of(layer) in contents(registry)) == (all_of(layer), False)
        assert app.get_blob(digest_of(layer)).status_code == 404, "the repository has let go of it"
        assert "no garbage" in garbage_collect(registry).stderr, "it stays there for a while"
        age(registry)
        assert "1 contents removed" in garbage_collect(registry).stderr
        assert trash(registry) == set()
        assert app.get_manifest("v1").content == kept

    @pytest.mark.parametrize("asking", ["head", "mount", "push"])
    def test_what_somebody_was_told_to_be_there_stays(self, registry: LiveRegistry, asking: str) -> None:
        app = Repository(registry.client(), "app")
        layer, left_alone = unique(), unique()
        app.push_blob(layer)
        app.push_blob(left_alone)
        app.push_blob(b"{}")
        age(registry)
        target = app if asking != "mount" else app.sibling("mounted")
        if asking == "head":
            assert app.client.head(f"{app.path}/blobs/{digest_of(layer)}").status_code == 200
        elif asking == "mount":
            query = {"mount": digest_of(layer), "from": app.name}
            assert app.client.post(f"{target.path}/blobs/uploads/", params=query).status_code == 201
        else:
            app.push_blob(layer)
        garbage_collect(registry)
        assert digest_of(left_alone) in trash(registry)
        target.push_blob(b"{}")
        target.push_manifest(image(b"{}", [layer]), "v1")
        assert target.get_blob(digest_of(layer)).content == layer

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_an_untagged_manifest_that_somebody_has_asked_for_stays_with_all_it_has(
        self, registry: LiveRegistry, method: str
    ) -> None:
        """As clients ask for it before they push an index that lists it."""
        app = Repository(registry.client(), "app")
        layer = unique()
        child, other = app.push_image(layers=[layer]), app.push_image()
        age(registry)
        assert app.client.request(method, f"{app.path}/manifests/{digest_of(child)}").status_code == 200
        assert "1 manifests without a tag" in garbage_collect(registry, "--delete-untagged").stderr
        assert digest_of(other) in trash(registry)
        app.push_manifest(index([child]), "multi", OCI_INDEX)
        assert app.get_manifest(digest_of(child)).content == child
        assert app.get_blob(digest_of(layer)).content == layer

    def test_an_index_keeps_what_it_lists_from_the_moment_of_its_push(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "app")
        layer = unique()
        child = app.push_image(layers=[layer])
        age(registry)
        app.push_manifest(index([child]), media_type=OCI_INDEX)
        garbage_collect(registry, "--delete-untagged")
        assert app.get_manifest(digest_of(child)).content == child
        assert app.get_blob(digest_of(layer)).content == layer

    def test_what_is_asked_for_is_taken_back_from_the_trash(self, on_files: LiveRegistry) -> None:
        """However it came there: here by somebody who moved it."""
        app = Repository(on_files.client(), "app")
        layer = unique()
        manifest = app.push_image("v1", layers=[layer])
        for digest in all_of(layer, manifest):
            _throw_away(on_files, digest)
        assert contents(on_files) == all_of(b"{}")
        assert app.get_manifest("v1").content == manifest
        assert app.get_blob(digest_of(layer)).content == layer
        assert trash(on_files) == set()

    def test_a_manifest_can_be_pushed_whose_layer_is_in_the_trash(self, on_files: LiveRegistry) -> None:
        app = Repository(on_files.client(), "app")
        layer = unique()
        for blob in (b"{}", layer):
            app.push_blob(blob)
        _throw_away(on_files, digest_of(layer))
        app.push_manifest(image(b"{}", [layer]), "v1")
        assert app.get_blob(digest_of(layer)).content == layer

    def test_what_is_referred_to_comes_back_from_the_trash_unasked(self, on_files: LiveRegistry) -> None:
        app = Repository(on_files.client(), "app")
        layer = unique()
        app.push_image("v1", layers=[layer])
        _throw_away(on_files, digest_of(layer))
        age(on_files)
        assert "1 contents taken back" in garbage_collect(on_files).stderr
        assert (trash(on_files), digest_of(layer) in contents(on_files)) == (set(), True)

    def test_servers_that_are_gone_are_not_waited_for(self, on_files: LiveRegistry) -> None:
        orphan = unique()
        Repository(on_files.client(), "app").push_blob(orphan)
        on_files.kill()
        garbage_collect(on_files)
        assert digest_of(orphan) in contents(on_files), "it may be about to come back"
        for sign in (on_files.data / ".regatta/servers").iterdir():
            silent = time.time() - occupancy.DEAD_AFTER - 5
            os.utime(sign, (silent, silent))
        garbage_collect(on_files)
        assert contents(on_files) == set()


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("damage", ["lost", "changed"])
    def test_its_repository_keeps_all_it_has(self, on_files: LiveRegistry, damage: str) -> None:
        app, other = Repository(on_files.client(), "app"), Repository(on_files.client(), "other")
        layer, orphan = unique(), unique()
        manifest = app.push_image("v1", layers=[layer])
        other.push_blob(orphan)
        on_files.stop()
        hex_digest = digest_of(manifest)[7:]
        path = on_files.root / f"blobs/sha256/{hex_digest[:2]}/{hex_digest}/data"
        path.unlink() if damage == "lost" else path.write_bytes(b"{}")
        result = garbage_collect(on_files, "--delete-untagged")
        assert result.exit_code == 1
        assert f"app: manifest {digest_of(manifest)} can't be read" in result.stderr
        assert digest_of(layer) in contents(on_files)
        assert digest_of(orphan) not in contents(on_files)

    def test_a_manifest_of_an_unknown_kind_keeps_whatever_it_names(self, on_files: LiveRegistry) -> None:
        """Such as those of schema 1, which old registries have."""
        app = Repository(on_files.client(), "app")
        layer = unique()
        app.push_blob(layer)
        on_files.stop()
        old = json.dumps({"schemaVersion": 1, "fsLayers": [{"blobSum": digest_of(layer)}], "signatures": []}).encode()
        for path, content in (
            (f"blobs/sha256/{digest_of(old)[7:9]}/{digest_of(old)[7:]}/data", old),
            (f"repositories/app/_manifests/revisions/sha256/{digest_of(old)[7:]}/link", digest_of(old).encode()),
        ):
            (on_files.root / path).parent.mkdir(parents=True)
            (on_files.root / path).write_bytes(content)
        assert garbage_collect(on_files).exit_code == 0
        assert contents(on_files) == all_of(layer, old)

    def test_a_repository_of_a_name_that_is_none_keeps_what_it_has(self, on_files: LiveRegistry) -> None:
        """Another server may have let it in."""
        app = Repository(on_files.client(), "app")
        manifest = app.push_image("v1")
        on_files.stop()
        (on_files.root / "repositories/app").rename(on_files.root / "repositories/App")
        before = contents(on_files)
        assert garbage_collect(on_files, "--delete-untagged").exit_code == 0
        assert contents(on_files) == before
        assert digest_of(manifest) in before

    def test_what_a_killed_deletion_has_left_keeps_nothing(self, on_files: LiveRegistry) -> None:
        app = Repository(on_files.client(), "app")
        manifest = app.push_image("v1")
        on_files.stop()
        (on_files.root / f"repositories/app/_manifests/revisions/sha256/{digest_of(manifest)[7:]}/link").unlink()
        assert garbage_collect(on_files).exit_code == 0
        assert contents(on_files) == set()

    def test_a_database_that_was_never_filled_does_not_make_everything_garbage(
        self, on_files: LiveRegistry, serve: Serve, tmp_path: Path
    ) -> None:
        Repository(on_files.client(), "app").push_image("v1")
        on_files.stop()
        before = contents(on_files)
        storage = {"filesystem": {"rootdirectory": str(on_files.data)}}
        url = f"sqlite:///{tmp_path}/empty.db"
        on_sql = serve({"storage": storage, "metadata": {"sql": {"url": url}}}, start=False)
        result = garbage_collect(on_sql)
        assert result.exit_code == 2
        assert "metadata import" in result.stderr
        assert contents(on_files) == before


class TestRaces:
    """What is too short to be met over HTTP."""

    def test_a_content_that_is_touched_as_it_is_moved_stays(self, tmp_path: Path, monkeypatch: Any) -> None:
        real_rename = os.rename

        async def scenario() -> None:
            storage = FilesystemStorage(str(tmp_path))
            content = Digest.of(b"content")
            await storage.write_blob(content, b"content")
            _make_old(storage, content)

            def touch_then_rename(source: str, target: str) -> None:
                os.utime(source)
                real_rename(source, target)

            monkeypatch.setattr(os, "rename", touch_then_rename)
            assert not await storage.trash.discard(content, untouched_since=time.time() - 3600)
            monkeypatch.undo()
            assert await storage.in_place(content) is not None
            assert [blobs async for blobs in storage.trash.contents() if blobs] == []

        asyncio.run(scenario())

    def test_a_blob_that_is_touched_as_it_is_unlinked_is_linked_again_by_all_its_names(self, tmp_path: Path) -> None:
        class Touching(LayoutMetadata):
            async def unlink_blob(self, repository: str, digest: Digest) -> bool:
                await storage.touch(Digest.of(b"content"))
                return await super().unlink_blob(repository, digest)

        async def scenario() -> None:
            metadata = Touching(storage, understand)
            content, alias = Digest.of(b"content"), Digest.of(b"content", "sha512")
            await storage.write_blob(content, b"content")
            await metadata.link_blobs("app", [LinkedBlob(content, 7, [alias])])
            _make_old(storage, content)
            assert await _collected(storage, metadata) == []
            assert (await metadata.holdings("app")).blobs == {content: content, alias: content}

        storage = FilesystemStorage(str(tmp_path))
        asyncio.run(scenario())

    def test_a_manifest_that_is_pushed_again_as_it_is_released_keeps_its_tag_and_its_layers(
        self, tmp_path: Path
    ) -> None:
        layer = b"layer"
        manifest = image(b"{}", [layer])
        digest = Digest.of(manifest)

        class Pushing(LayoutMetadata):
            async def release_manifest(self, repository: str, digest: Digest) -> bool:
                await storage.write_blob(digest, manifest)
                await self.link_manifests(repository, [understand(digest, manifest)], tags={"v1": digest})
                return await super().release_manifest(repository, digest)

        async def scenario() -> None:
            metadata = Pushing(storage, understand)
            for content in (b"{}", layer, manifest):
                await storage.write_blob(Digest.of(content), content)
            blobs = [LinkedBlob(Digest.of(content), len(content)) for content in (b"{}", layer)]
            await metadata.link_blobs("app", blobs)
            await metadata.link_manifests("app", [understand(digest, manifest)], tags={})
            for content in (b"{}", layer, manifest):
                _make_old(storage, Digest.of(content))
            assert await _collected(storage, metadata, delete_untagged=True) == []
            assert await metadata.tagged("app", "v1") is not None
            assert await storage.in_place(Digest.of(layer)) is not None

        storage = FilesystemStorage(str(tmp_path))
        asyncio.run(scenario())


class TestOneAtATime:
    def test_a_job_waits_for_no_other_but_says_so(self, on_files: LiveRegistry) -> None:
        on_files.stop()

        async def scenario() -> Result:
            async with lease(FilesystemStorage(str(on_files.data)).aside, "another job"):
                return await asyncio.to_thread(garbage_collect, on_files)

        result = asyncio.run(scenario())
        assert result.exit_code == 1
        assert "another job is at work on this storage" in result.stderr
        assert garbage_collect(on_files).exit_code == 0

    def test_a_job_that_was_killed_is_in_nobodys_way_for_long(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            aside = FilesystemStorage(str(tmp_path)).aside
            await aside.create("leases/7", json.dumps({"job": "killed", "exclusive": True}).encode())
            with pytest.raises(Occupied):
                async with lease(aside, "next"):
                    pass
            silent = time.time() - occupancy.DEAD_AFTER - 5
            os.utime(tmp_path / ".regatta/leases/7", (silent, silent))
            async with lease(aside, "next") as held:
                assert held.exclusive
            assert set(await aside.written("leases")) == {"8"}

        asyncio.run(scenario())

    def test_a_job_that_was_taken_for_dead_stops(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(occupancy, "BEAT", 0.01)

        async def scenario() -> None:
            aside = FilesystemStorage(str(tmp_path)).aside
            async with lease(aside, "job") as held:
                await aside.create("leases/2", b'{"job": "another"}')
                await asyncio.wait_for(held.lost.wait(), 30)
                with pytest.raises(occupancy.LeaseLost):
                    held.check()
            assert await aside.read("leases/2") == b'{"job": "another"}'

        asyncio.run(scenario())

    def test_a_job_that_stood_still_for_too_long_stops(self) -> None:
        """A server may have begun to serve meanwhile."""
        held = Lease(exclusive=True)
        held.check()
        held.alive -= occupancy.DEAD_AFTER
        with pytest.raises(occupancy.LeaseLost):
            held.check()

    def test_a_server_begins_to_serve_when_a_job_that_has_the_storage_for_itself_is_done(
        self, on_files: LiveRegistry
    ) -> None:
        on_files.stop()

        async def scenario() -> None:
            async with lease(FilesystemStorage(str(on_files.data)).aside, "a job") as held:
                assert held.exclusive
                on_files.start(ready=False)
                until(lambda: "serving begins when it is done" in on_files.messages(), "the server waits")
                assert _readiness(on_files) == 503

        asyncio.run(scenario())
        until(lambda: _readiness(on_files) == 200, "the server serves")

    def test_a_job_beside_a_server_does_not_have_the_storage_for_itself(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            aside = FilesystemStorage(str(tmp_path)).aside
            presence = Presence(aside, "a server")
            await presence.announce()
            async with lease(aside, "a job") as held:
                assert not held.exclusive
                await Presence(aside, "another").announce()  # which waits for no such job
            await presence.leave()
            await aside.remove("servers/another")
            async with lease(aside, "a job") as held:
                assert held.exclusive

        asyncio.run(scenario())


def test_help_and_short_options_are_those_that_users_of_distribution_know(on_files: LiveRegistry) -> None:
    on_files.stop()
    assert garbage_collect(on_files, "-d", "-m", "-q").exit_code == 0


async def _collected(
    storage: FilesystemStorage, metadata: LayoutMetadata, *, delete_untagged: bool = False
) -> list[Collected]:
    options = Options(timedelta(hours=1), delete_untagged=delete_untagged)
    events = collect(storage, metadata, options, lease=Lease(exclusive=False))
    return [event async for event in events if isinstance(event, Collected)]


def _referrer(repository: Repository, subject: bytes) -> bytes:
    layer = unique("signature")
    repository.push_blob(layer)
    manifest = image(b"{}", [layer], subject=descriptor(subject))
    repository.push_manifest(manifest)
    return manifest


def _used(repository: Repository) -> int:
    answer = repository.client.get(f"{repository.path}/_regatta/usage").raise_for_status().json()
    return int(answer["bytes"])


def _throw_away(registry: LiveRegistry, digest: str) -> None:
    name = digest[7:]
    place = registry.root / f"blobs/sha256/{name[:2]}/{name}/data"
    thrown = registry.data / f".regatta/trash/sha256/{name[:2]}/{name}/data"
    thrown.parent.mkdir(parents=True)
    place.rename(thrown)


def _make_old(storage: FilesystemStorage, digest: Digest) -> None:
    then = time.time() - LONG_AGO
    os.utime(storage._blob_path(digest), (then, then))


def _readiness(registry: LiveRegistry) -> int | None:
    try:
        return httpx.get(f"{registry.debug_url}/readyz", timeout=1).status_code
    except httpx.TransportError:
        return None
