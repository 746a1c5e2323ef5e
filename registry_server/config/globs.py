"""Globs over repository names: `team/**` is everything below `team`, `*` and `?` stay within one component."""

import re
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator

from registry_server.config.scalars import Text

_CHARACTERS: Final = re.compile(r"[a-z0-9._/*?-]+")


def _check(glob: str) -> str:
    if not _CHARACTERS.fullmatch(glob):
        raise ValueError("must be repository names in lower case with *, ** and ? as wildcards, for example team/**")
    for component in glob.split("/"):
        if not component:
            raise ValueError("has an empty component; write team/** rather than /team/ or team//x")
        if "**" in component and component != "**":
            raise ValueError("** stands for whole components, for example team/** or **/cache; use * within one")
    return glob


Glob = Annotated[Text, AfterValidator(_check)]


def compile_globs(globs: Iterable[str]) -> re.Pattern[str]:
    """What matches any of the globs, by `fullmatch`."""
    return re.compile("|".join(map(translate, globs)))


def translate(glob: str) -> str:
    """A glob over repository names as a regular expression that matches in linear time.

    `*` and `?` stay within a component; `**` is any number of components, at the end at least one. What stands between
    two wildcards is matched where it first occurs and nowhere else (atomic groups): a later occurrence never turns a
    failure into a match, and clients choose the names.
    """
    components = glob.split("/")
    runs: list[list[str]] = [[]]
    for component in components:
        if component == "**":
            runs.append([])
        else:
            runs[-1].append(_translate_component(component))
    first, *rest = ["/".join(run) for run in runs]
    if not rest:
        return f"(?:{first})"
    start = f"{first}/" if first else ""
    middle = "".join(rf"(?>(?:[^/]+/)*?{run}/)" for run in rest[:-1] if run)
    end = rf"(?:[^/]+/)*{rest[-1]}" if rest[-1] else r"[^/]+(?:/[^/]+)*"
    return f"(?:{start}{middle}{end})"


def _translate_component(component: str) -> str:
    first, *rest = (re.escape(part).replace(r"\?", "[^/]") for part in component.split("*"))
    if not rest:
        return first
    middle = "".join(rf"(?>[^/]*?{part})" for part in rest[:-1] if part)
    return rf"{first}{middle}[^/]*{rest[-1]}"
