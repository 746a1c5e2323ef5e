"""Who may do what: subject, repository and action, decided by the configuration's policies.

Deny by default; what any matching policy grants is granted. Decisions are remembered: a request pays for a look-up.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from registry_server.auth.subject import Subject
from registry_server.config import Action, Config, Policy, Role

ACTIONS: frozenset[Action] = frozenset(("pull", "push", "delete"))
ROLES: dict[Role, frozenset[Action]] = {
    "reader": frozenset(("pull",)),
    "writer": frozenset(("pull", "push")),
    "maintainer": ACTIONS,
    "admin": ACTIONS,
}
_REMEMBERED = 16_384
"""Decisions kept, about 5 MB: names come from clients, so there must be a bound."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy made ready: which subjects, which repositories, which actions."""

    anyone: bool
    authenticated: bool
    users: frozenset[str]
    repositories: re.Pattern[str]
    actions: frozenset[Action]

    @classmethod
    def of(cls, policy: Policy) -> Self:
        subjects = set(policy.subjects)
        return cls(
            anyone="anonymous" in subjects,
            authenticated="authenticated" in subjects,
            users=frozenset(one.removeprefix("user:") for one in subjects if one.startswith("user:")),
            repositories=re.compile("|".join(map(translate, policy.repositories))),
            actions=frozenset(policy.actions or ()) if policy.role is None else ROLES[policy.role],
        )

    def covers(self, subject: Subject) -> bool:
        return self.anyone or (subject.kind == "user" and (self.authenticated or subject.name in self.users))


class AccessPolicy:
    """The decisions of one configuration."""

    allows: Callable[[Subject, str, Action], bool]
    """`allows(subject, repository, action)`: a look-up for what was asked before, else microseconds."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self.allows = lru_cache(_REMEMBERED)(self._decide)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The policies under `access`; without it everything for whoever logs in, or for everyone when nobody can."""
        if config.access is not None:
            return cls(tuple(map(Rule.of, config.access.policies)))
        subject = "authenticated" if config.auth.htpasswd else "anonymous"
        return cls((Rule.of(Policy(subjects=(subject,), repositories=("**",), role="admin")),))

    def may_list(self, subject: Subject) -> bool:
        """Whether there is anything `subject` may pull; the catalog then shows that and nothing else."""
        return any("pull" in rule.actions and rule.covers(subject) for rule in self._rules)

    def _decide(self, subject: Subject, repository: str, action: Action) -> bool:
        return any(
            action in rule.actions and rule.covers(subject) and rule.repositories.fullmatch(repository) is not None
            for rule in self._rules
        )


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
