"""What a token is good for: repositories and actions, however its owner is trusted beside it.

Written two ways in distribution's token specification: as scopes when a token is asked for, such as
`repository:team/app:pull,push`, and as the claim `access` inside of one. Either may hold anything.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from registry_server.config import Action
from registry_server.reference import is_repository

MAX_SCOPES: Final = 64
"""Scopes of a token; a push that mounts from another repository asks for two."""
_ACTIONS: Final[frozenset[Action]] = frozenset(("pull", "push", "delete", "admin"))
_ORDER: Final[tuple[Action, ...]] = ("pull", "push", "delete", "admin")


class TooManyScopes(ValueError):
    """More scopes than one token may have."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Actions by repository, and whether the catalog may be read."""

    repositories: Mapping[str, frozenset[Action]] = field(default_factory=dict)
    catalog: bool = False

    @classmethod
    def of_scopes(cls, scopes: Iterable[str]) -> Self:
        """What scopes ask for, each text one or several of them; nothing for what can't be understood.

        Raises TooManyScopes.
        """
        parts = [part for text in scopes for part in text.split()]
        if len(parts) > MAX_SCOPES:
            raise TooManyScopes(f"at most {MAX_SCOPES} scopes make a token; ask for fewer")
        return cls._of(map(_parse_scope, parts))

    @classmethod
    def of_claim(cls, access: Any) -> Self:
        """What the claim `access` of a verified token grants; nothing for what can't be understood."""
        entries = access if isinstance(access, list) else []
        return cls._of(
            (entry.get("type"), entry.get("name"), entry.get("actions")) for entry in entries if isinstance(entry, dict)
        )

    @classmethod
    def _of(cls, entries: Iterable[tuple[Any, Any, Any]]) -> Self:
        repositories: dict[str, frozenset[Action]] = {}
        catalog = False
        for kind, name, actions in entries:
            if not isinstance(actions, list):
                continue
            if kind == "registry":
                catalog = catalog or (name == "catalog" and "*" in actions)
            elif kind == "repository" and isinstance(name, str) and is_repository(name):
                wanted = _ACTIONS if "*" in actions else frozenset(one for one in _ORDER if one in actions)
                repositories[name] = repositories.get(name, frozenset()) | wanted
        return cls(repositories, catalog)

    def allows(self, repository: str, action: Action) -> bool:
        return action in self.repositories.get(repository, ())

    def within(self, allows: Callable[[str, Action], bool], *, catalog: bool) -> Self:
        """What of this is left under a policy's decisions."""
        left = {
            name: kept
            for name, actions in self.repositories.items()
            if (kept := frozenset(one for one in actions if allows(name, one)))
        }
        return type(self)(left, self.catalog and catalog)

    def claim(self) -> list[dict[str, Any]]:
        """This as the claim `access`."""
        entries: list[dict[str, Any]] = [
            {"type": "repository", "name": name, "actions": _sorted(actions)}
            for name, actions in self.repositories.items()
        ]
        return entries + ([{"type": "registry", "name": "catalog", "actions": ["*"]}] if self.catalog else [])

    def scope(self) -> str:
        """This as a text of scopes."""
        return " ".join(f"{one['type']}:{one['name']}:{','.join(one['actions'])}" for one in self.claim())


def _parse_scope(scope: str) -> tuple[str, str, list[str]]:
    """`type(class):name:action,action`; a name may have colons of its own."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind.partition("(")[0], name, actions.split(",")


def _sorted(actions: frozenset[Action]) -> list[Action]:
    return [one for one in _ORDER if one in actions]
