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
from registry_server.config.globs import compile_globs

ACTIONS: frozenset[Action] = frozenset(("pull", "push", "delete", "admin"))
ROLES: dict[Role, frozenset[Action]] = {
    "reader": frozenset(("pull",)),
    "writer": frozenset(("pull", "push")),
    "maintainer": frozenset(("pull", "push", "delete")),
    "admin": ACTIONS,
}
_REMEMBERED = 16_384
"""Decisions kept, about 5 MB: names come from clients, so there must be a bound."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy made ready: which subjects, which repositories, which actions."""

    anyone: bool
    authenticated: bool
    named: frozenset[str]
    """Users, ServiceAccounts and groups, as the configuration has them."""
    repositories: re.Pattern[str]
    everywhere: bool
    """Whether those are all there are, and may be."""
    actions: frozenset[Action]

    @classmethod
    def of(cls, policy: Policy) -> Self:
        subjects = frozenset(policy.subjects)
        return cls(
            anyone="anonymous" in subjects,
            authenticated="authenticated" in subjects,
            named=subjects,
            repositories=compile_globs(policy.repositories),
            everywhere="**" in policy.repositories,
            actions=frozenset(policy.actions or ()) if policy.role is None else ROLES[policy.role],
        )

    def covers(self, subject: Subject) -> bool:
        if self.anyone or subject.kind == "anonymous":
            return self.anyone
        return (
            self.authenticated
            or f"{subject.kind}:{subject.name}" in self.named
            or any(f"group:{group}" in self.named for group in subject.groups)
        )

    def grants(self, subject: Subject, repository: str, action: Action) -> bool:
        return action in self.actions and self.covers(subject) and self.repositories.fullmatch(repository) is not None


class AccessPolicy:
    """The decisions of one configuration."""

    allows: Callable[[Subject, str, Action], bool]
    """`allows(subject, repository, action)`: a look-up for what was asked before, else microseconds."""
    may_list: Callable[[Subject], bool]
    """Whether there is anything a subject may pull; the catalog then shows that and nothing else."""

    administers: Callable[[Subject], bool]
    """Whether a subject has the registry as a whole: `admin` of all repositories (`**`)."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self.administers = lru_cache(_REMEMBERED)(self._administers)
        self.allows = lru_cache(_REMEMBERED)(self._decide)
        self.may_list = lru_cache(_REMEMBERED)(self._may_list)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The policies under `access`; without them everything for whoever logs in.

        Where nobody can log in, everything but administration is for everyone.
        """
        return cls(tuple(map(Rule.of, policies(config))))

    def _may_list(self, subject: Subject) -> bool:
        return any("pull" in rule.actions and rule.covers(subject) for rule in self._rules)

    def _administers(self, subject: Subject) -> bool:
        return any(rule.everywhere and "admin" in rule.actions and rule.covers(subject) for rule in self._rules)

    def _decide(self, subject: Subject, repository: str, action: Action) -> bool:
        return any(rule.grants(subject, repository, action) for rule in self._rules)


def policies(config: Config) -> tuple[Policy, ...]:
    """The policies of a configuration, or those that stand for having none."""
    if config.access is not None and config.access.policies is not None:
        return config.access.policies
    if config.auth.has_logins:
        return (Policy(subjects=("authenticated",), repositories=("**",), role="admin"),)
    return (Policy(subjects=("anonymous",), repositories=("**",), role="maintainer"),)
