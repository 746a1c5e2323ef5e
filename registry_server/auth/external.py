"""Tokens of a token server (`auth.token`), which says in each what its bearer may do.

Source: distribution's "Token Authentication Implementation"; realm and service are the challenge's business.
"""

import json
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Final

from registry_server.auth.authenticator import UnverifiedToken
from registry_server.auth.followed import Followed
from registry_server.auth.grants import Grants
from registry_server.auth.keys import LEEWAY, TrustedKeys, UnusableKey
from registry_server.auth.login import Login
from registry_server.auth.subject import Subject
from registry_server.config import ConfigError, Token

SOURCE: Final = "token server"


class ExternalTokens:
    """Verifies a token server's tokens by keys in files that may change."""

    slow: Final = False
    source: Final = SOURCE

    def __init__(self, settings: Token) -> None:
        """Raises ConfigError for files that cannot be used."""
        self._settings = settings
        paths = [path for path in (settings.rootcertbundle, settings.jwks) if path is not None]
        self._keys = Followed(paths, lambda: _read_keys(settings))

    def issued(self, _token: UnverifiedToken) -> bool:
        return True

    async def verify(self, token: UnverifiedToken) -> Login:
        settings = self._settings
        claims = self._keys.current.verify(
            token, issuer=settings.issuer, audience=settings.service, algorithms=settings.signingalgorithms
        )
        grants = Grants.of_claim(claims.get("access"))
        name = claims.get("sub", "")
        subject = Subject.user(name if name.isprintable() else "")
        return Login(subject, int(claims["exp"]) + LEEWAY, grants, source=SOURCE)

    def reload_if_changed(self) -> bool:
        """Follow the files; returns whether the keys changed."""
        return self._keys.reload_if_changed()


def _read_keys(settings: Token) -> TrustedKeys:
    """Raises ConfigError."""
    found = []
    if settings.rootcertbundle is not None:
        found.append(_read("auth.token.rootcertbundle", settings.rootcertbundle, TrustedKeys.of_certificates))
    if settings.jwks is not None:
        found.append(_read("auth.token.jwks", settings.jwks, lambda content: TrustedKeys.of_jwks(json.loads(content))))
    return reduce(add, found)


def _read(setting: str, path: Path, parse: Callable[[bytes], TrustedKeys]) -> TrustedKeys:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from None
    except UnusableKey as error:
        raise ConfigError(f"{setting}: {path} cannot be used: {error}") from None
    except ValueError:
        raise ConfigError(f"{setting}: {path} is not JSON; give a JWK Set such as the token server publishes") from None
