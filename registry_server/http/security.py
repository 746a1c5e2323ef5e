"""Who may do what, as requests and answers have it: credentials, permissions, challenges.

request ─► authenticate ─► Login ─► authorize ─► its handler
                 └───────────────────────┴► 401 with a challenge, 403, 429, 503
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from registry_server.auth import AccessPolicy, Authenticator
from registry_server.auth.authenticator import basic_challenge, quoted
from registry_server.auth.login import NOBODY, Login, LoginUnavailable, TooManyAttempts, Unauthenticated
from registry_server.auth.subject import ANONYMOUS
from registry_server.config import Action, Token
from registry_server.http.engine import Scope
from registry_server.http.message import Request
from registry_server.http.origin import Networks, client_address, external
from registry_server.http.routes import ADMINISTRATION, LISTS, METHODS, Target
from registry_server.registry.errors import Denied, TooManyRequests, Unauthorized, Unavailable

logger = logging.getLogger(__name__)

LOGINS_AWAY: Final = 5
"""Seconds after which whoever knows the logins may be back."""


@dataclass(slots=True)
class Security:
    """The registry's gate."""

    authenticator: Authenticator
    policy: AccessPolicy
    """Another one when the configuration's `access` changes."""
    realm: str
    failed: Callable[[str], None]
    """Counts a refused login, by its reason."""
    token_server: Token | None = None
    trusted_proxies: Networks = ()
    base_url: str = ""
    """Scheme and host as clients see them (`http.host`); empty to take them from the request."""
    prefix: str = ""
    """What paths begin with before `/v2/` (`http.prefix`), without its last slash."""
    _wondered: bool = False

    @property
    def has_logins(self) -> bool:
        return self.authenticator.enabled

    async def authenticate(self, request: Request) -> Login:
        """Who asks. Raises Unauthorized, TooManyRequests, Unavailable."""
        credentials = request.headers.get("authorization")
        login = self.authenticator.recognize(credentials)
        if login is None:
            assert credentials is not None  # noqa: S101  (whoever sends none is recognized)
            login = await self.check(request, credentials)
        if login.subject is not ANONYMOUS:
            request.user = str(login.subject)
        return login

    async def check(self, request: Request, credentials: str) -> Login:
        """Who has these credentials, in the form of an `Authorization` header. Raises as `authenticate`."""
        bearer = credentials[:7].lower() == "bearer "
        try:
            return await self.authenticator.authenticate(credentials, client_address(request, self.trusted_proxies))
        except Unauthenticated as error:
            self.failed("token" if bearer else "password")
            what = "the token is not valid, or no longer" if bearer else "user name or password is wrong"
            raise Unauthorized(what) from error
        except TooManyAttempts as error:
            self.failed("throttled")
            self._wonder_about_proxies(request)
            raise TooManyRequests(
                "too many logins failed or wait; try again later", retry_after=error.retry_after
            ) from error
        except LoginUnavailable as error:
            self.failed("unavailable")
            logger.warning("a login could not be checked: %s", error)
            raise Unavailable(
                "logins can't be checked at the moment; try again later", retry_after=LOGINS_AWAY
            ) from error

    def _wonder_about_proxies(self, request: Request) -> None:
        """Once, where all clients may count as one."""
        if not self.trusted_proxies and not self._wondered and request.headers.get("x-forwarded-for") is not None:
            self._wondered = True
            hint = "if that is a proxy, name it in http.trustedproxies to tell its clients apart"
            logger.warning("logins from %s are throttled; %s", request.client.rpartition(":")[0], hint)

    def authorize(self, login: Login, request: Request, target: Target) -> None:
        """Raises Unauthorized for someone who might log in, or with another token, Denied for someone who has."""
        if target.resource == "base":
            # A client learns here how to log in; where logins exist it must, if only to get a token for nobody.
            allowed = granted = login is not NOBODY or not self.has_logins
        elif target.resource in ADMINISTRATION:
            allowed, granted = self.policy.administers(login.subject), login.grants is None
        elif not target.repository:
            # The catalog shows only what its reader may pull.
            allowed, granted = self.policy.may_list(login.subject), login.grants is None or login.grants.catalog
        else:
            action = METHODS[target.resource][request.method]
            allowed = self.policy.allows(login.subject, target.repository, action)
            granted = login.grants is None or login.grants.allows(target.repository, action)
        if allowed and granted:
            return
        if self.has_logins and (allowed or self.token_server is not None or login.subject == ANONYMOUS):
            raise Unauthorized
        raise Denied

    def visible(self, login: Login, target: Target) -> Callable[[str], bool]:
        """Which repositories a list or a mount may know of."""
        subject, grants, allows = login.subject, login.grants, self.policy.allows
        if grants is None or target.resource in LISTS:  # whoever may read that sees all that policies let them see
            return lambda name: allows(subject, name, "pull")
        return lambda name: grants.allows(name, "pull") and allows(subject, name, "pull")

    def challenge(self, request: Request, target: Target | None, scope: Scope, why: Unauthorized) -> str:
        """How to log in: with `Bearer` at a token server, or where there are also clients without a login."""
        anyone = self.policy.may_list(ANONYMOUS)
        if self.token_server is None and (not anyone or (target is not None and target.resource == "token")):
            return basic_challenge(self.realm)
        realm, service = self._token_server(request, scope)
        challenge = f'Bearer realm="{quoted(realm)}",service="{quoted(service)}"'
        if target is not None and (wanted := _wanted(request, target)):
            challenge += f',scope="{wanted}"'
        if request.headers.get("authorization") is not None:
            invalid = isinstance(why.__cause__, Unauthenticated)
            challenge += f',error="{"invalid_token" if invalid else "insufficient_scope"}"'
        return challenge

    def _token_server(self, request: Request, scope: Scope) -> tuple[str, str]:
        """Where tokens are had, and for whom."""
        base, host = external(self.base_url, request, scope)
        server = self.token_server
        if server is None:
            return f"{base}{self.prefix}/auth/token", host
        return (f"{base}{server.autoredirectpath}" if server.autoredirect else server.realm), server.service


def _wanted(request: Request, target: Target) -> str:
    """The scope that a token needs for a request."""
    if target.resource in LISTS:
        return "registry:catalog:*"
    if not target.repository:
        return ""
    action: Action = METHODS[target.resource][request.method]
    return f"repository:{target.repository}:{'pull,push' if action == 'push' else action}"
