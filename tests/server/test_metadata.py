"""The metadata contract: what every driver must do, on link files and on each database, asked without HTTP."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from registry_server.config import Metadata
from registry_server.metadata.contract import Descriptor, Holdings, LinkedBlob, Tagged
from registry_server.metadata.contract import Metadata as Driver
from registry_server.metadata.drivers import open_metadata, prepare
from registry_server.metadata.layout import LayoutMetadata
from registry_server.reference import Digest
from registry_server.registry.manifest import understand
from registry_server.storage.filesystem import FilesystemStorage
from tests.server.conftest import METADATA, metadata_settings
from tests.server.content import OCI_INDEX, OCI_MANIFEST, image, index

T = TypeVar("T")

DRIVERS = (*METADATA, "pgbouncer")
NOTHING = Digest.of(b"pushed by nobody")


class World:
    """One driver over storage of its own, and a shorthand to ask it."""

    def __init__(self, folder: Path, settings: Metadata) -> None:
        self.storage = FilesystemStorage(str(folder))
        prepare(settings)
        self.driver: Driver = open_metadata(settings, self.storage, understand)
        self._runner = asyncio.Runner()

    def ask(self, question: Awaitable[T]) -> T:
        async def asked() -> T:
            return await question

        return self._runner.run(asked())

    def all_of(self, batches: Any) -> list[Any]:
        async def collect() -> list[Any]:
            async with aclosing(batches):
                return [batch async for batch in batches]

        return self._runner.run(collect())

    def close(self) -> None:
        self.ask(self.driver.close())
        self._runner.close()

    def link_blob(self, repository: str, content: bytes, *aliases: Digest) -> Digest:
        self.ask(self.storage.write_blob(Digest.of(content), content))
        blob = LinkedBlob(Digest.of(content), len(content), aliases)
        self.ask(self.driver.link_blobs(repository, [blob]))
        return blob.content

    def link(self, repository: str, content: bytes, *tags: str, algorithm: str = "sha256") -> Digest:
        """Links a manifest as a push does, and points tags to it."""
        self.ask(self.storage.write_blob(Digest.of(content), content))
        linked = understand(Digest.of(content, algorithm), content)
        self.ask(self.driver.link_manifests(repository, [linked], tags=dict.fromkeys(tags, linked.digest)))
        return linked.digest

    def tags(self, repository: str, after: str = "", limit: int = 1000) -> Sequence[str] | None:
        return self.ask(self.driver.tags(repository, after=after, limit=limit))

    def repositories(self, after: str = "", batch: int = 1000) -> list[str]:
        return [name for names in self.all_of(self.driver.repositories(after=after, batch=batch)) for name in names]


@pytest.fixture(params=DRIVERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    settings = metadata_settings(request.param, request, tmp_path).get("metadata", {})
    if "sql" in settings:
        settings["sql"]["timeout"] = "2m"  # a busy machine is not what these are about
    world = World(tmp_path / "data", Metadata.model_validate(settings))
    yield world
    world.close()


class TestBlobs:
    def test_a_repository_holds_what_was_linked_to_it(self, world: World) -> None:
        digest = world.link_blob("team/app", b"content")
        assert world.ask(world.driver.linked_blob("team/app", digest)) == digest
        assert world.ask(world.driver.linked_blob("team", digest)) is None
        assert world.ask(world.driver.linked_blob("team/app", NOTHING)) is None

    def test_linking_again_changes_nothing(self, world: World) -> None:
        for _ in range(3):
            digest = world.link_blob("app", b"content")
        assert world.ask(world.driver.holdings("app")) == Holdings(blobs={digest: digest})

    def test_an_alias_leads_to_the_content(self, world: World) -> None:
        alias = Digest.of(b"content", "sha512")
        digest = world.link_blob("app", b"content", alias)
        assert world.ask(world.driver.linked_blob("app", alias)) == digest
        assert world.ask(world.driver.linked_blobs("app", [alias, digest, NOTHING])) == {alias: digest, digest: digest}
        assert world.ask(world.driver.linked_blob("other", alias)) is None

    def test_an_alias_can_be_taken_away_alone(self, world: World) -> None:
        alias = Digest.of(b"content", "sha512")
        digest = world.link_blob("app", b"content", alias)
        assert world.ask(world.driver.unlink_blob("app", alias))
        assert world.ask(world.driver.linked_blob("app", alias)) is None
        assert world.ask(world.driver.linked_blob("app", digest)) == digest

    def test_thousands_are_found_at_once(self, world: World) -> None:
        contents = [b"%d" % number for number in range(1201)]
        blobs = [LinkedBlob(Digest.of(content), len(content)) for content in contents]
        world.ask(world.driver.link_blobs("app", blobs))
        digests = [blob.content for blob in blobs]
        assert world.ask(world.driver.linked_blobs("app", [*digests, NOTHING])) == {one: one for one in digests}
        assert world.ask(world.driver.linked_blobs("none", digests)) == {}

    def test_unlinking_is_of_one_repository(self, world: World) -> None:
        for repository in ("one", "two"):
            digest = world.link_blob(repository, b"content")
        assert world.ask(world.driver.unlink_blob("one", digest))
        assert not world.ask(world.driver.unlink_blob("one", digest))
        assert not world.ask(world.driver.unlink_blob("none", digest))
        assert world.ask(world.driver.linked_blob("one", digest)) is None
        assert world.ask(world.driver.linked_blob("two", digest)) == digest

    def test_a_holder_is_one_that_may_be_seen(self, world: World) -> None:
        alias = Digest.of(b"content", "sha512")
        for repository in ("a", "b", "c"):
            digest = world.link_blob(repository, b"content", alias)
        for name in (digest, alias):
            assert world.ask(world.driver.holder(name, visible=lambda name: name == "b")) == "b"
            assert world.ask(world.driver.holder(name, visible=lambda _: False)) is None
        assert world.ask(world.driver.holder(NOTHING, visible=lambda _: True)) is None


class TestManifests:
    def test_a_tag_leads_to_a_manifest(self, world: World) -> None:
        digest = world.link("team/app", index(), "v1", "latest")
        for tag in ("v1", "latest"):
            assert world.ask(world.driver.tagged("team/app", tag)) == Tagged(digest, digest)
        assert world.ask(world.driver.tagged("team/app", "v2")) is None
        assert world.ask(world.driver.tagged("team", "v1")) is None
        assert world.ask(world.driver.linked_manifest("team/app", digest)) == digest
        assert world.ask(world.driver.linked_manifest("team", digest)) is None

    def test_a_tag_moves(self, world: World) -> None:
        world.link("app", index(), "v1")
        second = world.link("app", index(annotations={"number": "2"}), "v1")
        assert world.ask(world.driver.tagged("app", "v1")) == Tagged(second, second)
        assert world.tags("app") == ["v1"]

    def test_the_case_of_a_tag_counts(self, world: World) -> None:
        small = world.link("app", index(), "v")
        large = world.link("app", index(annotations={"number": "2"}), "V")
        assert world.ask(world.driver.tagged("app", "v")) == Tagged(small, small)
        assert world.ask(world.driver.tagged("app", "V")) == Tagged(large, large)
        assert world.ask(world.driver.untag("app", "v"))
        assert world.tags("app") == ["V"]

    def test_one_pushed_by_sha512_is_found_by_it(self, world: World) -> None:
        digest = world.link("app", index(), "v1", algorithm="sha512")
        assert digest.algorithm == "sha512"
        assert world.ask(world.driver.linked_manifest("app", digest)) == Digest.of(index())
        assert world.ask(world.driver.tagged("app", "v1")) == Tagged(digest, Digest.of(index()))

    def test_untagging_keeps_the_manifest(self, world: World) -> None:
        digest = world.link("app", index(), "v1")
        assert world.ask(world.driver.untag("app", "v1"))
        assert not world.ask(world.driver.untag("app", "v1"))
        assert not world.ask(world.driver.untag("none", "v1"))
        assert world.ask(world.driver.linked_manifest("app", digest)) == digest
        assert world.tags("app") == []

    def test_tags_say_when_they_were_pushed(self, world: World) -> None:
        before = time.time()
        digest = world.link("app", index(), "v1", "v2")
        found = world.ask(world.driver.dated_tags("app"))
        assert {tag: dated.digest for tag, dated in found.items()} == {"v1": digest, "v2": digest}
        assert all(before - 1 < dated.at < time.time() + 1 for dated in found.values())
        assert world.ask(world.driver.dated_tags("none")) == {}

    def test_a_tag_goes_if_it_is_still_as_it_was(self, world: World) -> None:
        first, second = index(), index(annotations={"number": "2"})
        kept = world.link("app", first, "v1", "v2")
        found = world.ask(world.driver.dated_tags("app"))
        world.link("app", second, "v1")
        assert not world.ask(world.driver.untag_old("app", "v1", found["v1"])), "it leads elsewhere"
        assert not world.ask(world.driver.untag_old("app", "none", found["v1"]))
        assert world.ask(world.driver.untag_old("app", "v2", found["v2"]))
        assert world.tags("app") == ["v1"]
        assert world.ask(world.driver.linked_manifest("app", kept)) == kept

    def test_a_tag_that_was_pushed_anew_does_not(self, world: World) -> None:
        """Although it leads where it led."""
        world.link("app", index(), "v1")
        found = world.ask(world.driver.dated_tags("app"))["v1"]
        time.sleep(0.01)  # times are milliseconds
        world.link("app", index(), "v1")
        assert not world.ask(world.driver.untag_old("app", "v1", found))
        assert world.tags("app") == ["v1"]

    def test_of_a_push_and_its_untagging_at_once_the_push_counts(self, world: World) -> None:
        """Whichever comes first, and whatever it leads to."""
        manifests = [index(), index(annotations={"number": "2"})]
        linked = [understand(world.link("app", content), content) for content in manifests]

        async def both(number: int) -> None:
            tag = f"v{number}"
            await world.driver.link_manifests("app", [], tags={tag: linked[0].digest})
            found = (await world.driver.dated_tags("app"))[tag]
            await asyncio.sleep(0.002)
            pushed = linked[number % 2].digest
            calls = [
                world.driver.link_manifests("app", [], tags={tag: pushed}),
                world.driver.untag_old("app", tag, found),
            ]
            random.shuffle(calls)
            await asyncio.gather(*calls)
            there = await world.driver.tagged("app", tag)
            assert there is not None, f"round {number}"
            assert there.digest == pushed

        for number in range(60):
            world.ask(both(number))

    @pytest.mark.parametrize("again", [True, False], ids=["the same", "another"])
    def test_a_push_in_the_very_moment_counts_on_link_files(self, tmp_path: Path, again: bool) -> None:
        """Where nothing takes a link away only if it still is what it was."""
        contents = [index(), index(annotations={"number": "2"})]

        class Interrupted(FilesystemStorage):
            async def remove(self, path: str) -> bool:
                if path.endswith("/current"):
                    await push(contents[0 if again else 1])
                return await super().remove(path)

        storage = Interrupted(str(tmp_path))
        driver = LayoutMetadata(storage, understand)

        async def push(content: bytes) -> Digest:
            await storage.write_blob(Digest.of(content), content)
            linked = understand(Digest.of(content), content)
            await driver.link_manifests("app", [linked], tags={"v1": linked.digest})
            return linked.digest

        async def scenario() -> None:
            await push(contents[0])
            found = (await driver.dated_tags("app"))["v1"]
            await asyncio.sleep(0.01)
            assert not await driver.untag_old("app", "v1", found)
            there = await driver.tagged("app", "v1")
            assert there is not None
            assert there.digest == Digest.of(contents[0 if again else 1])

        asyncio.run(scenario())

    def test_unlinking_takes_its_tags_and_no_other(self, world: World) -> None:
        gone = world.link("app", index(), "v1", "v2")
        kept = world.link("app", index(annotations={"number": "2"}), "kept")
        assert world.ask(world.driver.unlink_manifest("app", gone))
        assert not world.ask(world.driver.unlink_manifest("app", gone))
        assert not world.ask(world.driver.unlink_manifest("none", kept))
        assert world.tags("app") == ["kept"]
        assert world.ask(world.driver.linked_manifests("app", [gone, kept])) == {kept: kept}

    def test_everything_that_refers_to_something_can_be_taken_away_in_any_order(self, world: World) -> None:
        layer = world.link_blob("app", b"layer")
        world.link_blob("app", b"{}")
        child = image(b"{}", [b"layer"])
        parent = index([child, child])
        for _ in range(2):
            one, other = world.link("app", child), world.link("app", parent, "v1")
            assert world.ask(world.driver.unlink_blob("app", layer))
            assert world.ask(world.driver.unlink_manifest("app", one))
            assert world.ask(world.driver.linked_manifest("app", other)) == other
            world.link_blob("app", b"layer")
            world.link("app", child)
            assert world.ask(world.driver.unlink_manifest("app", other))

    def test_what_is_listed_need_not_be_there(self, world: World) -> None:
        """Sparse images and indexes are let in by configuration, and not forgotten when the rest comes."""
        child = image(b"config", [b"layer" + b"%d" % number for number in range(1100)])
        parent = world.link("app", index([child]), "v1")
        digest = world.link("app", child)
        world.link_blob("app", b"config")
        world.link("app", child, "child")
        world.link("app", index([child]))
        assert world.ask(world.driver.holdings("app")).manifests == {parent: parent, digest: digest}


class TestLists:
    TAGS = sorted([f"v{number}" for number in range(12)] + ["A", "a", "_", "Z.9", "Z-9", "a.b", "a-b", "0", "latest"])

    @pytest.mark.parametrize(
        "after", ["", "0", "A", "Z", "a", "a-", "a.b", "v1", "zzz", "\0", "a\0b", "é", "aé", "a\ud800", "x" * 5000, "~"]
    )
    def test_tags_come_in_the_order_of_their_bytes(self, world: World, after: str) -> None:
        world.link("app", index(), *self.TAGS)
        rest = [tag for tag in self.TAGS if tag > after]
        assert world.tags("app", after) == rest
        assert world.tags("app", after, limit=3) == rest[:3]

    def test_a_repository_that_is_not_there_has_no_list(self, world: World) -> None:
        assert world.tags("app") is None
        world.link_blob("app", b"content")
        assert world.tags("app") is None
        world.link("app", index())
        assert world.tags("app") == []
        assert world.tags("app", after="v1") == []

    @pytest.mark.parametrize("after", ["", "a", "a-b", "b\0", "é", "zz"])
    @pytest.mark.parametrize("batch", [1, 2, 100])
    def test_repositories_come_in_batches(self, world: World, after: str, batch: int) -> None:
        names = sorted(["a", "a-b", "a.b", "a/b", "a_b", "b/deep/down", "z"])
        for name in names:
            world.link(name, index())
        world.link_blob("blobs-only", b"content")
        rest = [name for name in names if name > after]
        assert world.repositories(after, batch) == rest
        first = world.all_of(world.driver.repositories(after=after, batch=batch))[:1]
        assert not first or len(first[0]) >= min(batch, len(rest))
        assert world.all_of(world.driver.everything()) == sorted([*names, "blobs-only"])

    def test_of_batches_one_may_take_the_first_alone(self, world: World) -> None:
        for number in range(5):
            world.link(f"app-{number}", index())

        async def first() -> Sequence[str]:
            async with aclosing(world.driver.repositories(after="", batch=2)) as batches:
                return await anext(batches)

        assert world.ask(first())[:2] == ["app-0", "app-1"]


class TestReferrers:
    def test_they_are_described_in_the_order_of_their_digests(self, world: World) -> None:
        subject = world.link("app", index())
        entry = {"mediaType": OCI_INDEX, "digest": str(subject), "size": len(index())}
        contents = [index(subject=entry, annotations={"number": str(number)}) for number in range(5)]
        contents.append(image(subject=entry, artifactType="application/x", annotations={"ä": "\0\ud800€"}))
        for content in contents:
            world.link("app", content)
            world.link("other", content)
        expected = sorted((understand(Digest.of(one), one).descriptor for one in contents), key=lambda one: one.digest)
        assert list(world.ask(world.driver.referrers("app", subject))) == expected
        assert list(world.ask(world.driver.referrers("app", NOTHING))) == []
        assert list(world.ask(world.driver.referrers("none", subject))) == []
        assert world.ask(world.driver.unlink_manifest("app", expected[0].digest))
        assert list(world.ask(world.driver.referrers("app", subject))) == expected[1:]

    @pytest.mark.parametrize("text", ["application/x", 'quoted "\\"', "\0", "\ud800", "ünïcödé 💥", "x" * 70_000])
    def test_odd_texts_come_back_as_they_were(self, world: World, text: str) -> None:
        entry = {"mediaType": OCI_MANIFEST, "digest": str(NOTHING), "size": 1}
        content = index(subject=entry, artifactType=text, annotations={text: text})
        world.link("app", content)
        [found] = world.ask(world.driver.referrers("app", NOTHING))
        assert found == Descriptor(Digest.of(content), OCI_INDEX, len(content), text, {text: text})


class TestHoldings:
    def test_they_are_everything(self, world: World) -> None:
        alias = Digest.of(b"layer", "sha512")
        layer, config = world.link_blob("app", b"layer", alias), world.link_blob("app", b"{}")
        manifest = world.link("app", image(b"{}", [b"layer"]), "v1", "v2")
        by_sha512 = world.link("app", index(), algorithm="sha512")
        world.link("other", index(), "v3")
        assert world.ask(world.driver.holdings("app")) == Holdings(
            blobs={layer: layer, config: config, alias: layer},
            manifests={manifest: manifest, by_sha512: Digest.of(index())},
            tags={"v1": manifest, "v2": manifest},
        )
        assert world.ask(world.driver.holdings("none")) == Holdings()

    def test_many_are_linked_at_once(self, world: World) -> None:
        contents = [index(annotations={"number": str(number)}) for number in range(700)]
        linked = [understand(Digest.of(content), content) for content in contents]
        for one, content in zip(linked, contents, strict=True):
            world.ask(world.storage.write_blob(one.content, content))
        tags = {f"v{number}": one.digest for number, one in enumerate(linked)}
        world.ask(world.driver.link_manifests("app", linked, tags=tags))
        assert world.ask(world.driver.holdings("app")).tags == tags
        world.ask(world.driver.link_manifests("app", [], tags={"v0": linked[1].digest}))
        assert world.ask(world.driver.tagged("app", "v0")) == Tagged(linked[1].digest, linked[1].digest)


class TestManyAtOnce:
    """What several requests do at the same moment ends as if they had come one after another."""

    def test_pushes_of_the_same_content(self, world: World) -> None:
        layer = LinkedBlob(Digest.of(b"layer"), 5)
        manifest = understand(Digest.of(image(b"layer")), image(b"layer"))

        async def push(number: int) -> None:
            await world.driver.link_blobs(f"app-{number % 3}", [layer])
            await world.driver.link_manifests(f"app-{number % 3}", [manifest], tags={"latest": manifest.digest})

        world.ask(_together(push, range(30)))
        for number in range(3):
            assert world.ask(world.driver.tagged(f"app-{number}", "latest")) == Tagged(manifest.digest, manifest.digest)

    def test_pushes_and_deletions(self, world: World) -> None:
        content = index()
        manifest = understand(Digest.of(content), content)
        child_of = understand(Digest.of(index([content])), index([content]))

        async def act(number: int) -> None:
            match number % 4:
                case 0:
                    await world.driver.link_manifests("app", [manifest], tags={"latest": manifest.digest})
                case 1:
                    await world.driver.unlink_manifest("app", manifest.digest)
                case 2:
                    await world.driver.link_manifests("app", [child_of], tags={"all": child_of.digest})
                case 3:
                    await world.driver.untag("app", "latest")

        world.ask(_together(act, range(80)))
        world.ask(world.driver.link_manifests("app", [manifest], tags={"latest": manifest.digest}))
        assert world.ask(world.driver.tagged("app", "latest")) == Tagged(manifest.digest, manifest.digest)
        assert world.ask(world.driver.tagged("app", "all")) == Tagged(child_of.digest, child_of.digest)


async def _together(work: Callable[[int], Awaitable[None]], numbers: Sequence[int]) -> None:
    await asyncio.gather(*(work(number) for number in numbers))
