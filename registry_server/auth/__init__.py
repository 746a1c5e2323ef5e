"""Who asks and what they may do: `Authenticator` tells whose a credential is, `AccessPolicy` what they may do."""

from registry_server.auth.authenticator import Authenticator, basic_challenge
from registry_server.auth.htpasswd import HtpasswdError, Users, hash_password
from registry_server.auth.login import Login, LoginUnavailable, TooManyAttempts, Unauthenticated
from registry_server.auth.passwords import Passwords
from registry_server.auth.policy import AccessPolicy
from registry_server.auth.subject import ANONYMOUS, Subject

__all__ = [
    "ANONYMOUS",
    "AccessPolicy",
    "Authenticator",
    "HtpasswdError",
    "Login",
    "LoginUnavailable",
    "Passwords",
    "Subject",
    "TooManyAttempts",
    "Unauthenticated",
    "Users",
    "basic_challenge",
    "hash_password",
]
