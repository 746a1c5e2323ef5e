"""Tags that never move: which they are, by the rules under `access.immutabletags`.

The registry asks before it points a tag elsewhere or takes it away.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from registry_server.config import Config, ImmutableTags
from registry_server.config.globs import compile_globs, translate

_VERSION: Final = re.compile(
    r"v?(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:_[0-9A-Za-z._-]+)?", re.ASCII
)
"""A whole version of Semantic Versioning 2.0. A tag has no `+`, so `_` leads the build, as Helm writes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the rules made ready."""

    repositories: re.Pattern[str]
    tags: re.Pattern[str]
    excluded: re.Pattern[str] | None

    @classmethod
    def of(cls, rule: ImmutableTags) -> Self:
        tags = [*map(translate, rule.tags or ()), *([_VERSION.pattern] if rule.semver else [])]
        return cls(
            repositories=compile_globs(rule.repositories),
            tags=re.compile("|".join(tags), re.ASCII),
            excluded=compile_globs(rule.exclude) if rule.exclude else None,
        )

    def covers(self, repository: str, tag: str) -> bool:
        return (
            self.repositories.fullmatch(repository) is not None
            and self.tags.fullmatch(tag) is not None
            and (self.excluded is None or self.excluded.fullmatch(tag) is None)
        )


@dataclass(frozen=True, slots=True)
class TagRules:
    """The rules of one configuration."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(tuple(map(Rule.of, config.access.immutabletags if config.access else ())))

    def __bool__(self) -> bool:
        return bool(self.rules)

    def immutable(self, repository: str, tag: str) -> bool:
        """Whether this tag, once there, stays where it points."""
        return any(rule.covers(repository, tag) for rule in self.rules)
