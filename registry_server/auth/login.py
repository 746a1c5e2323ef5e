"""What authentication finds out about a credential, and how it ends otherwise.

AuthenticationError
├── Unauthenticated     missing, malformed, wrong or no longer valid
├── TooManyAttempts     not looked at: too many others wait, or this address was wrong too often
└── LoginUnavailable    whoever could tell does not answer
"""

from math import inf
from typing import Final, NamedTuple

from registry_server.auth.grants import Grants
from registry_server.auth.subject import ANONYMOUS, Subject

ISSUED_HERE: Final = "own"
"""The source of logins with tokens that the registry made itself."""


class Login(NamedTuple):
    """Who sent a credential, and for how long and what it is good."""

    subject: Subject
    expires: float = inf
    """Unix time."""
    grants: Grants | None = None
    """What the credential is restricted to; None for all that policies grant its subject."""
    hashed: bytes | None = None
    """The hash of an htpasswd file that this rests on; once the file has another, it no longer counts."""
    source: str = ""
    """Who vouches for it, so that what one issuer said can be forgotten."""


NOBODY = Login(ANONYMOUS)
"""Whoever sends no credential."""


class AuthenticationError(Exception):
    """A credential by which nobody was recognized."""


class Unauthenticated(AuthenticationError):
    """The credentials are missing, malformed or wrong; which of them is nobody's business."""


class TooManyAttempts(AuthenticationError):
    """One more login would only wait in vain, or comes from where too many were wrong."""

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__()
        self.retry_after = retry_after
        """Seconds after which trying again makes sense."""


class LoginUnavailable(AuthenticationError):
    """What a login would be checked against is away; the message says why, for a log."""
