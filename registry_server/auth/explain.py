"""Why someone may do something, or may not: for `registry-server access check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from registry_server.auth.immutable import TagRules
from registry_server.auth.policy import ROLES, Rule, policies
from registry_server.auth.subject import Subject
from registry_server.config import Action, Config, Policy


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and the policies behind it."""

    allowed: bool
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, subject: Subject, repository: str, action: Action, tag: str | None = None) -> Self:
        """What the server would decide, and why. `tag` is one that would be pushed or deleted."""
        if config.auth.token is not None:
            return cls(False, ("the token server decides: a token's claim access says what its bearer may do",))
        places = [_place(config, number) for number in range(len(policies(config)))]
        judged = [(place, policy, Rule.of(policy)) for place, policy in zip(places, policies(config), strict=True)]
        granting = [
            f"{place} grants it: {in_words(policy)}"
            for place, policy, rule in judged
            if rule.grants(subject, repository, action)
        ]
        if not granting:
            return cls(False, tuple(_refusals(judged, subject, repository, action)))
        if tag is not None and action in ("push", "delete"):
            rules = TagRules.from_config(config).rules
            for number, rule in enumerate(rules):
                if rule.covers(repository, tag):
                    what = "once pushed it does not move" if action == "push" else "it can't be deleted"
                    reason = f"access.immutabletags[{number}] makes tag {tag} immutable: {what}"
                    return cls(action == "push", (*granting, reason))
        return cls(True, tuple(granting))


def _refusals(
    judged: list[tuple[str, Policy, Rule]], subject: Subject, repository: str, action: Action
) -> Iterator[str]:
    """What comes nearest to granting it, or that nothing does."""
    found = False
    for place, policy, rule in judged:
        if rule.repositories.fullmatch(repository) is None:
            continue
        if rule.covers(subject):
            found = True
            yield f"{place} grants {'+'.join(_actions(policy))} there, not {action}: {in_words(policy)}"
        elif action in rule.actions:
            found = True
            yield f"{place} grants it to others: {in_words(policy)}"
    if not found:
        yield f"no policy grants {action} on {repository} to anyone"


def _place(config: Config, number: int) -> str:
    if config.access is not None and config.access.policies is not None:
        return f"access.policies[{number}]"
    return "the policy of a configuration without access.policies"


def _actions(policy: Policy) -> list[str]:
    actions = policy.actions if policy.role is None else ROLES[policy.role]
    return [action for action in ("pull", "push", "delete", "admin") if action in (actions or ())]


def in_words(policy: Policy) -> str:
    """A policy in a line."""
    what = policy.role or "+".join(policy.actions or ())
    return f"{', '.join(policy.subjects)}: {what} on {', '.join(policy.repositories)}"


def who(subject: Subject) -> str:
    """A subject as a sentence begins with it."""
    return {"anonymous": "whoever has no login", "user": f"user {subject.name}"}.get(subject.kind, str(subject))
