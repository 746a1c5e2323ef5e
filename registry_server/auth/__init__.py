"""Who asks and what they may do: `Authenticator` tells the subject of a request, `AccessPolicy` what it may do."""

from registry_server.auth.authenticator import Authenticator, TooManyAttempts, Unauthenticated, basic_challenge
from registry_server.auth.htpasswd import HtpasswdError, Users, hash_password
from registry_server.auth.policy import AccessPolicy
from registry_server.auth.subject import ANONYMOUS, Subject

__all__ = [
    "ANONYMOUS",
    "AccessPolicy",
    "Authenticator",
    "HtpasswdError",
    "Subject",
    "TooManyAttempts",
    "Unauthenticated",
    "Users",
    "basic_challenge",
    "hash_password",
]
