"""Who a request comes from: what authentication finds out and policies judge."""

from typing import Literal, NamedTuple, Self

Kind = Literal["anonymous", "user", "serviceaccount"]


class Subject(NamedTuple):
    """Someone without a login, a user by name, or a Kubernetes ServiceAccount as `NAMESPACE:NAME`.

    A tuple, and so a cheap key of the caches on the way of a request.
    """

    kind: Kind
    name: str = ""
    groups: tuple[str, ...] = ()

    @classmethod
    def user(cls, name: str, *, groups: tuple[str, ...] = ()) -> Self:
        """Whoever is logged in as `name`."""
        return cls("user", name, groups)

    def __str__(self) -> str:
        """As policies name it, but for users, who are known by their names alone."""
        return self.name if self.kind == "user" else f"{self.kind}:{self.name}" if self.name else self.kind


ANONYMOUS = Subject("anonymous")
