"""Rules of immutable tags: which tags they are about."""

from typing import Any

import pytest

from registry_server.auth.immutable import TagRules
from registry_server.config import Config


def rules(*wanted: dict[str, Any]) -> TagRules:
    settings = {"version": "0.1", "storage": {"filesystem": {}}, "access": {"immutabletags": wanted}}
    return TagRules.from_config(Config.model_validate(settings))


def test_without_rules_every_tag_moves() -> None:
    nothing = TagRules.from_config(Config.model_validate({"version": "0.1", "storage": {"filesystem": {}}}))
    assert not nothing
    assert not nothing.immutable("a", "v1")


@pytest.mark.parametrize(
    ("globs", "tags", "others"),
    [
        (["v*"], ["v", "v1", "v1.2-rc"], ["1", "latest-v1", "V1"]),
        (["release-?"], ["release-1"], ["release-", "release-12"]),
        (["stable", "2*"], ["stable", "2.0"], ["stable2", "1.2"]),
        (["*"], ["anything", "latest"], []),
    ],
)
def test_of_patterns(globs: list[str], tags: list[str], others: list[str]) -> None:
    found = rules({"repositories": ["team/**"], "tags": globs})
    assert [tag for tag in tags + others if found.immutable("team/app", tag)] == tags
    assert not any(found.immutable("other/app", tag) for tag in tags)


def test_of_versions() -> None:
    """Semantic Versioning 2.0 and what its users write before and after; what stands for several versions moves on."""
    found = rules({"repositories": ["**"], "semver": True})
    whole = ["1.2.3", "v1.2.3", "0.0.0", "1.2.3-rc.1", "v2.0.0-alpha", "1.2.3_build.5", "1.2.3-rc.1_5", "10.20.30"]
    moving = ["latest", "1", "1.2", "v1", "v1.2", "1.2.x", "01.2.3", "1.2.3.4", "release-1.2.3", "1.2.3-", "main", ""]
    assert [tag for tag in whole + moving if found.immutable("a/b", tag)] == whole


def test_what_is_excluded_moves() -> None:
    found = rules({"repositories": ["**"], "tags": ["*"], "semver": True, "exclude": ["latest", "sha256-*"]})
    assert found.immutable("a", "1.2.3")
    assert not found.immutable("a", "latest")
    assert not found.immutable("a", f"sha256-{'0' * 64}.sig")


def test_one_rule_of_several_is_enough() -> None:
    found = rules({"repositories": ["a"], "semver": True}, {"repositories": ["b/*"], "tags": ["v*"]})
    assert [found.immutable(*one) for one in [("a", "1.0.0"), ("a", "v1"), ("b/c", "v1"), ("b/c", "1.0.0")]] == [
        True, False, True, False,
    ]  # fmt: skip
