"""Retention: which tags go, which stay and why, and that none is lost which was pushed meanwhile."""

import json
import os
import sqlite3
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from registry_server.cli import main
from registry_server.config import Retention
from registry_server.jobs.retention import Rule, decide
from registry_server.metadata.contract import Dated
from registry_server.reference import Digest
from registry_server.versions import Version, natural
from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, descriptor, digest_of, index
from tests.server.live import LiveRegistry, until
from tests.server.test_garbage import age, garbage_collect

DAY = 24 * 3600
NOW = 1_000 * DAY


def rules(*given: dict[str, Any]) -> list[Rule]:
    filled = [{"repositories": ["**"], **one} for one in given]
    return [Rule.of(rule) for rule in Retention.model_validate({"rules": filled}).rules]


def going(tags: dict[str, float], *given: dict[str, Any], repository: str = "team/app", **more: Any) -> list[str]:
    """The tags that go, of some by how many days ago they were pushed."""
    dated = {tag: Dated(Digest.of(tag.encode()), NOW - days * DAY) for tag, days in tags.items()}
    return [one.tag for one in decide(rules(*given), repository, dated, now=NOW, **more) if one.goes]


class TestRules:
    def test_the_last_ones_stay(self) -> None:
        assert going({"a": 3, "b": 1, "c": 2, "d": 4}, {"keep": {"last": 2}}) == ["a", "d"]

    def test_of_those_pushed_at_once_the_one_that_reads_as_the_newest(self) -> None:
        assert going({"build-9": 3, "build-10": 3, "build-8": 3}, {"keep": {"last": 1}}) == ["build-8", "build-9"]

    def test_what_is_newer_stays(self) -> None:
        assert going({"a": 31, "b": 29}, {"keep": {"newerthan": "720h"}}) == ["a"]

    def test_what_is_pulled_stays(self) -> None:
        pulled = {Digest.of(tag.encode()): NOW - days * DAY for tag, days in {"a": 31, "b": 29}.items()}
        assert going({"a": 90, "b": 90, "c": 90}, {"keep": {"pulledwithin": "720h"}}, pulled=pulled) == ["a", "c"]

    def test_of_each_minor_version_the_newest_patch_stays(self) -> None:
        tags = dict.fromkeys(["1.2.3", "1.2.10", "1.3.0-rc.1", "1.3.0", "v2.0.0-rc.2", "v2.0.0-rc.10", "latest"], 9)
        assert going(tags, {"keep": {"patches": 1}}) == ["1.2.3", "1.3.0-rc.1", "latest", "v2.0.0-rc.2"]

    def test_whatever_one_criterion_or_one_rule_keeps_stays(self) -> None:
        tags = {"1.0.0": 90, "1.0.1": 80, "pr-1": 70, "pr-2": 1}
        assert going(tags, {"keep": {"newerthan": "48h", "patches": 1}}) == ["1.0.0", "pr-1"]
        assert going(tags, {"keep": {"last": 1}}, {"tags": ["1.*"], "keep": {"last": 5}}) == ["pr-1"]

    def test_a_rule_speaks_of_its_tags_in_its_repositories_alone(self) -> None:
        tags = {"pr-1": 9, "pr-2": 8, "latest": 7, "stable": 6}
        rule = {
            "repositories": ["team/**"],
            "tags": ["pr-*", "latest"],
            "exclude": ["*-2"],
            "keep": {"newerthan": "1h"},
        }
        assert going(tags, rule) == ["latest", "pr-1"]
        assert going(tags, rule, repository="other/app") == []

    def test_the_last_are_counted_among_those_a_rule_covers(self) -> None:
        assert going({"pr-1": 2, "main": 1}, {"tags": ["pr-*"], "keep": {"last": 1}}) == []

    def test_what_was_pushed_a_moment_ago_stays(self) -> None:
        assert going({"a": 0.0001, "b": 0, "c": 1}, {"keep": {"last": 1}}) == ["c"]

    def test_what_belongs_to_an_image_stays_with_it_and_counts_for_nothing(self) -> None:
        there, gone = "a" * 64, "b" * 64
        tags = {f"sha256-{there}.sig": 1, f"sha256-{there}": 2, f"sha256-{gone}.att": 3, "v1": 4, "v2": 5}
        assert going(tags, {"keep": {"last": 1}}, subjects={there}) == [f"sha256-{gone}.att", "v2"]

    @pytest.mark.parametrize(
        ("rule", "said"),
        [
            ({"keep": {}}, "keeps nothing"),
            ({}, "keep"),
            ({"keep": {"last": 0}}, "greater than or equal to 1"),
            ({"tags": ["a b"], "keep": {"last": 1}}, "wildcards"),
            ({"repositories": [], "keep": {"last": 1}}, "at least 1"),
        ],
    )
    def test_one_that_would_take_all_or_nothing_is_refused(self, rule: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            rules(rule)


def test_versions_in_their_order() -> None:
    """The example of Semantic Versioning 2.0, section 11."""
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    order += ["1.0.0-rc.1", "v1.0.0", "2.0.0", "2.1.0", "2.1.1"]
    versions = [version for tag in order if (version := Version.of(tag))]
    assert len(versions) == len(order)
    assert all(one < other for one, other in pairwise(versions))
    assert Version.of("1.0.0_build.5") == Version.of("1.0.0")
    assert [Version.of(tag) for tag in ("1.0", "latest", "01.0.0", "1.0.0+x")] == [None] * 4
    assert sorted(["b", "a-10", "a-9", "10", "9"], key=natural) == ["9", "10", "a-9", "a-10", "b"]


KEEP_ONE = {"retention": {"rules": [{"repositories": ["**"], "keep": {"last": 1}}]}}


def retention(registry: LiveRegistry, *options: str) -> Result:
    environ = {name: str(value) for name, value in registry.environ.items()}
    result = CliRunner().invoke(main, ["retention", str(registry.config), *options], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def make_older(registry: LiveRegistry, by: timedelta = timedelta(days=2)) -> None:
    """As if all tags had been pushed that much earlier."""
    for link in registry.root.rglob("tags/*/**/link"):
        then = link.stat().st_mtime - by.total_seconds()
        os.utime(link, (then, then))
    database = registry.folder / "metadata.db"
    if database.exists():
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE tags SET updated_at = updated_at - ?", [by.total_seconds() * 1000])
        connection.close()


@pytest.fixture(params=["layout", "sqlite"])
def registry(serve: Serve, request: pytest.FixtureRequest) -> LiveRegistry:
    """One that keeps the last tag of each repository, when it is asked to."""
    running = serve(KEEP_ONE, start=False)
    if request.param == "sqlite":
        settings = json.loads(running.config.read_text())
        settings["metadata"] = {"sql": {"url": f"sqlite:///{running.folder / 'metadata.db'}"}}
        running.config.write_text(json.dumps(settings))
    return running.start()


class TestCommand:
    def push(self, registry: LiveRegistry, *tags: str, name: str = "team/app") -> dict[str, bytes]:
        repository = Repository(registry.client(), name)
        return {tag: repository.push_image(tag) for tag in tags}

    def test_the_others_go_with_all_that_only_they_led_to(self, registry: LiveRegistry) -> None:
        app = Repository(registry.client(), "team/app")
        made = self.push(registry, "v1", "v2", "v3")
        self.push(registry, "only", name="other")
        signature = app.push_image(subject=descriptor(made["v3"]))
        make_older(registry)
        result = retention(registry)
        assert result.output.splitlines() == [
            "team/app:v1 goes: no rule keeps it",
            "team/app:v2 goes: no rule keeps it",
            "2 repositories with 4 tags: 2 are gone",
        ]
        assert app.tags() == ["v3"]
        assert app.get_manifest("v1").status_code == 404
        assert app.get_manifest(digest_of(made["v1"])).status_code == 200, "its manifest is garbage collection's"
        age(registry)
        registry.stop()
        assert garbage_collect(registry, "--delete-untagged").exit_code == 0
        app = Repository(registry.start().client(), "team/app")
        assert app.get_manifest(digest_of(made["v1"])).status_code == 404
        assert app.get_manifest("v3").content == made["v3"]
        assert [one["digest"] for one in app.referrers(digest_of(made["v3"]))] == [digest_of(signature)]
        assert retention(registry).output == "2 repositories with 2 tags: 0 are gone\n"

    def test_a_dry_run_says_so_and_changes_nothing(self, registry: LiveRegistry) -> None:
        self.push(registry, "v1", "v2")
        make_older(registry)
        said = retention(registry, "--dry-run", "--all").output.splitlines()
        assert said == [
            "team/app:v1 goes: no rule keeps it",
            "team/app:v2 stays: one of the last 1",
            "1 repositories with 2 tags: 1 would go",
        ]
        lines = retention(registry, "--dry-run", "--all", "--format", "json").output.splitlines()
        assert [(line["tag"], line["goes"]) for line in map(json.loads, lines)] == [("v1", True), ("v2", False)]
        assert Repository(registry.client(), "team/app").tags() == ["v1", "v2"]

    def test_a_tag_that_is_pushed_again_counts_from_then(self, registry: LiveRegistry) -> None:
        made = self.push(registry, "v1", "v2", "v3")
        make_older(registry)
        app = Repository(registry.client(), "team/app")
        app.push_manifest(made["v1"], "v1")
        assert retention(registry).exit_code == 0
        assert app.tags() == ["v1"]

    def test_what_clients_pull_stays(self, serve: Serve) -> None:
        keep = {"pulledwithin": "720h"}
        registry = serve({"retention": {"rules": [{"repositories": ["**"], "keep": keep}]}})
        made = self.push(registry, "pulled", "left", "child-left")
        long_ago = time.time() - 90 * DAY
        for path in registry.data.rglob("data"):
            os.utime(path, (long_ago, long_ago))
        make_older(registry, timedelta(days=90))
        registry.stop()
        app = Repository(registry.start().client(), "team/app")
        assert app.get_manifest("pulled").content == made["pulled"]
        assert retention(registry).exit_code == 0
        assert app.tags() == ["pulled"]

    def test_what_runs_somewhere_stays(self, registry: LiveRegistry) -> None:
        """By its tag, its digest, and the index of which a platform runs; garbage collection leaves it as well."""
        app = Repository(registry.client(), "team/app")
        child, untagged = app.push_image(), app.push_image("moved")
        multi = index([child])
        app.push_manifest(multi, "multi", OCI_INDEX)
        made = self.push(registry, "named", "run", "moved", "left", "newest")
        make_older(registry)
        running = [
            "team/app:named",
            *(f"team/app@{digest_of(one)}" for one in (made["run"], child, untagged)),
            f"elsewhere@{digest_of(made['left'])}",
        ]
        registry.config.write_text(json.dumps(json.loads(registry.config.read_text()) | {"inuse": running}))
        until(lambda: "changes of inuse are in force" in registry.messages(), "it is followed")
        assert "team/app:multi stays: runs somewhere" in retention(registry, "--all").output
        assert app.tags() == ["multi", "named", "newest", "run"]
        age(registry)
        registry.stop()
        assert garbage_collect(registry, "--delete-untagged").exit_code == 0
        app = Repository(registry.start().client(), "team/app")
        assert app.get_manifest(digest_of(untagged)).content == untagged
        assert app.get_manifest(digest_of(child)).content == child
        assert app.get_manifest(digest_of(made["left"])).status_code == 404

    @pytest.mark.parametrize("image", ["app", "App:v1", "app@sha256:12", "app:", "../app:v1", "app@v1"])
    def test_what_is_no_image_is_refused(self, registry: LiveRegistry, image: str) -> None:
        registry.config.write_text(json.dumps(json.loads(registry.config.read_text()) | {"inuse": [image]}))
        result = retention(registry)
        assert result.exit_code == 2
        assert "inuse[0]: " in result.stderr or "inuse.0: " in result.stderr, result.stderr

    def test_immutable_tags_stay(self, registry: LiveRegistry) -> None:
        registry.stop()
        immutable = {"access": {"immutabletags": [{"repositories": ["**"], "semver": True}]}}
        registry.config.write_text(json.dumps(json.loads(registry.config.read_text()) | immutable))
        registry.start()
        self.push(registry, "1.0.0", "a", "b")
        make_older(registry)
        assert "team/app:1.0.0 stays: immutable" in retention(registry, "--all").output
        assert Repository(registry.client(), "team/app").tags() == ["1.0.0", "b"]

    def test_without_rules_nobody_guesses_any(self, serve: Serve) -> None:
        result = retention(serve({}, start=False))
        assert result.exit_code == 2
        assert "retention: is missing" in result.stderr


def test_a_server_does_so_at_its_interval(serve: Serve) -> None:
    registry = serve({"retention": {**KEEP_ONE["retention"], "interval": "1s"}}, workers=2)
    app = Repository(registry.client(), "app")
    for tag in ("v1", "v2"):
        app.push_image(tag)
    make_older(registry)
    until(lambda: app.tags() == ["v2"], "the older one is gone")
    until(lambda: registry.metric("regatta_job_success", name="retention") == 1, "it is told")


def test_no_trace_is_left_of_a_tag_in_the_layout(serve: Serve) -> None:
    """distribution would list its folder as a tag."""
    registry = serve(KEEP_ONE)
    app = Repository(registry.client(), "app")
    for tag in ("v1", "v1", "v2"):
        app.push_image(tag)
    make_older(registry)
    retention(registry)
    tags = Path(registry.root / "repositories/app/_manifests/tags")
    assert [path.name for path in tags.iterdir()] == ["v2"]


def test_what_was_restored_counts_in_the_order_of_its_names(serve: Serve, archive: Path) -> None:
    """As all of it is pushed at once then."""
    backup = {"backup": {"destination": {"filesystem": {"rootdirectory": str(archive)}}}}
    old = serve(backup)
    for number in (10, 9, 11, 100):
        Repository(old.client(), "app").push_image(f"build-{number}")
    environ = {name: str(value) for name, value in old.environ.items()}
    for registry, words in ((old, ["backup", "run"]), (new := serve({**backup, **KEEP_ONE}), ["restore"])):
        assert CliRunner().invoke(main, [*words, str(registry.config)], env=environ).exit_code == 0
    make_older(new)
    retention(new)
    assert Repository(new.client(), "app").tags() == ["build-100"]
