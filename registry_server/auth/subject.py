"""Who a request comes from: what authentication finds out and policies judge."""

from typing import Literal, NamedTuple, Self


class Subject(NamedTuple):
    """Someone without a login, or a user by name. A tuple, and so a cheap key of the caches on the way of a request."""

    kind: Literal["anonymous", "user"]
    name: str = ""

    @classmethod
    def user(cls, name: str) -> Self:
        """Whoever is logged in as `name`."""
        return cls("user", name)


ANONYMOUS = Subject("anonymous")
