"""The block `retention`: which tags go by themselves."""

import re
from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from registry_server.config.globs import Glob
from registry_server.config.recurring import Recurring
from registry_server.config.scalars import Duration, Text
from registry_server.config.section import Int, Section

_TAG_GLOB: Final = re.compile(r"[A-Za-z0-9._*?-]+")


def _tag_glob(glob: str) -> str:
    if not _TAG_GLOB.fullmatch(glob):
        raise ValueError("must be tags with * and ? as wildcards, for example v*")
    return glob


TagGlob = Annotated[Text, AfterValidator(_tag_glob)]


class KeepTags(Section):
    """Which of the tags stay that a rule covers: those that any of these keeps.

    `last`: that many, by when they were pushed. `newerthan`: what was pushed within that time. `pulledwithin`: what was
    pulled within that time, or asked for by a client that wanted to know what it leads to. `patches`: of each minor
    version that many, the newest ones: of 1.2.3, 1.2.4 and 1.3.0 `patches: 1` keeps 1.2.4 and 1.3.0.
    """

    last: Annotated[Int, Field(ge=1)] | None = None
    newerthan: Annotated[Duration, Field(gt=timedelta(0))] | None = None
    pulledwithin: Annotated[Duration, Field(gt=timedelta(0))] | None = None
    patches: Annotated[Int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("keeps nothing; give last, newerthan, pulledwithin or patches")
        return self


class RetentionRule(Section):
    """A rule for tags that match one of `tags`, all unless given, but none of `exclude`, in each of `repositories`."""

    repositories: Annotated[tuple[Glob, ...], Field(min_length=1)]
    tags: Annotated[tuple[TagGlob, ...], Field(min_length=1)] = ("*",)
    exclude: tuple[TagGlob, ...] = ()
    keep: KeepTags


class Retention(Recurring):
    """Tags that go: those that a rule covers, unless it or another that covers them keeps them.

    Immutable tags stay, and those of cosign as long as their image does. A server does so by itself an `interval` after
    the last time, or by a `schedule`. What the tags led to goes by `garbagecollection.deleteuntagged`.
    """

    rules: Annotated[tuple[RetentionRule, ...], Field(min_length=1)]

    @property
    def remembers(self) -> timedelta:
        """How long ago a pull may be that still counts; 0 where none does."""
        return max((rule.keep.pulledwithin or timedelta(0) for rule in self.rules), default=timedelta(0))
