"""ID tokens of an OpenID Connect issuer (`auth.oidc`).

    token ─► its key is known ─► verified here
                └► not known ─► the issuer's keys are fetched anew, but not often ─► verified, or refused

What is known goes on when the issuer is away. Source: OpenID Connect Core 1.0, 3.1.3.7, and Discovery 1.0.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from registry_server.auth.authenticator import UnverifiedToken
from registry_server.auth.keys import LEEWAY, TrustedKeys, UnknownKey, UnusableKey
from registry_server.auth.login import Login, LoginUnavailable, Unauthenticated
from registry_server.auth.remote import Remote
from registry_server.auth.subject import Subject
from registry_server.config import OIDC

logger = logging.getLogger(__name__)

SOURCE: Final = "oidc"
KEYS_LAST: Final = 3600.0
"""Seconds after which keys are fetched anew, beside the next login."""
NOT_AGAIN_FOR: Final = 10.0
"""Seconds between two fetches, however many tokens name keys that nobody knows."""
LONGEST_NAME: Final = 512
"""Characters of a user's or a group's name."""


class OpenIDConnect:
    """Verifies an issuer's tokens by the keys it publishes."""

    slow: Final = False

    def __init__(
        self, settings: OIDC, *, keys_changed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`keys_changed` is called when a key no longer counts."""
        self._settings = settings
        self._keys_changed = keys_changed
        self._clock = clock
        self._remote = Remote(settings.ca, proxies=True)
        self._keys: TrustedKeys | None = None
        self._asked = -NOT_AGAIN_FOR
        self._failure: LoginUnavailable | None = None
        self._fetch: asyncio.Task[TrustedKeys] | None = None

    def issued(self, token: UnverifiedToken) -> bool:
        return token.claims.get("iss") == self._settings.issuer

    async def verify(self, token: UnverifiedToken) -> Login:
        keys = self._keys or await self._fetched()
        try:
            claims = self._verify(keys, token)
        except UnknownKey:
            claims = self._verify(await self._fetched(), token)
        if self._clock() - self._asked > KEYS_LAST:
            self._start()
        return Login(self._subject(claims), int(claims["exp"]) + LEEWAY, source=SOURCE)

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
        await self._remote.close()

    def _verify(self, keys: TrustedKeys, token: UnverifiedToken) -> Mapping[str, Any]:
        settings = self._settings
        return keys.verify(
            token, issuer=settings.issuer, audience=settings.clientid, algorithms=settings.signingalgorithms
        )

    def _subject(self, claims: Mapping[str, Any]) -> Subject:
        """Raises Unauthenticated for a token that does not say who it is for."""
        settings = self._settings
        name = claims.get(settings.usernameclaim)
        if not _is_name(name):
            raise Unauthenticated
        if settings.usernameclaim == "email" and claims.get("email_verified", True) is not True:
            raise Unauthenticated
        groups = claims.get(settings.groupsclaim, ()) if settings.groupsclaim else ()
        groups = [groups] if isinstance(groups, str) else groups
        found = filter(_is_name, groups if isinstance(groups, list) else ())
        return Subject.user(f"{settings.prefix}{name}", groups=tuple(f"{settings.prefix}{one}" for one in found))

    async def _fetched(self) -> TrustedKeys:
        """The keys as the issuer publishes them now, or as it did a moment ago. Raises LoginUnavailable."""
        if self._fetch is None and self._clock() - self._asked < NOT_AGAIN_FOR:
            if self._failure is not None:
                raise self._failure
            if self._keys is not None:
                return self._keys
        return await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[TrustedKeys]:
        if self._fetch is None:
            self._asked = self._clock()
            self._fetch = asyncio.create_task(self._fetch_keys())
            self._fetch.add_done_callback(self._ended)
        return self._fetch

    def _ended(self, fetch: asyncio.Task[TrustedKeys]) -> None:
        self._fetch = None
        if fetch.cancelled():
            return
        error = fetch.exception()
        self._failure = error if isinstance(error, LoginUnavailable) else None
        if error is not None:
            logger.warning("the keys of %s could not be fetched: %s", self._settings.issuer, error)

    async def _fetch_keys(self) -> TrustedKeys:
        """Raises LoginUnavailable."""
        issuer = self._settings.issuer
        document = await self._remote.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise LoginUnavailable(f"{issuer} says that it is another issuer; correct auth.oidc.issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or urlsplit(url).scheme not in ("https", urlsplit(issuer).scheme):
            raise LoginUnavailable(f"{issuer} has no jwks_uri that can be trusted")
        try:
            keys = TrustedKeys.of_jwks(await self._remote.get(url))
        except UnusableKey as error:
            raise LoginUnavailable(f"{url} cannot be used: {error}") from error
        gone = self._keys is not None and self._keys.names() - keys.names()
        self._keys = keys
        if gone:
            self._keys_changed()
        return keys


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()
