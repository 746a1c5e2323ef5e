"""Tags that never move: which they are, by the rules under `access.immutabletags`.

The registry asks before it points a tag elsewhere or takes it away.
"""

import re
from dataclasses import dataclass
from typing import Self

from registry_server import versions
from registry_server.config import Config, ImmutableTags
from registry_server.config.globs import compile_globs, translate


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the rules made ready."""

    repositories: re.Pattern[str]
    tags: re.Pattern[str]
    excluded: re.Pattern[str] | None

    @classmethod
    def of(cls, rule: ImmutableTags) -> Self:
        tags = [*map(translate, rule.tags or ()), *([versions.PATTERN.pattern] if rule.semver else [])]
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
