"""Tags as versions: Semantic Versioning 2.0, and the order in which people read other names."""

import re
from dataclasses import dataclass, field
from typing import Final, Self

PATTERN: Final = re.compile(
    r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:_[0-9A-Za-z._-]+)?", re.ASCII
)
"""A whole version. A tag has no `+`, so `_` leads the build, as Helm writes it."""

_DIGITS: Final = re.compile(r"(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version by its precedence (section 11); builds don't count."""

    major: int
    minor: int
    patch: int
    stage: tuple[tuple[int, int, str], ...] = field(default=((2, 0, ""),))
    """The identifiers of a pre-release: numbers before words, and all of them before none."""

    @classmethod
    def of(cls, tag: str) -> Self | None:
        """None for a tag that is no whole version."""
        found = PATTERN.fullmatch(tag)
        if found is None:
            return None
        numbers = (int(found[1]), int(found[2]), int(found[3]))
        return cls(*numbers) if found[4] is None else cls(*numbers, tuple(map(_identifier, found[4].split("."))))


def natural(tag: str) -> tuple[tuple[int, int, str], ...]:
    """A key to sort names by: `build-9` before `build-10`."""
    return tuple(_identifier(part) for part in _DIGITS.split(tag) if part)


def _identifier(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
