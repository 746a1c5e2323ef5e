"""Tokens that the registry issues for itself, at `/auth/token`: for access, and for getting such without a password.

A Docker client that met a `Basic` challenge sends no anonymous request any more, so a registry which anyone may pull
from and some may push to must challenge with `Bearer`: a client without a login then gets a token for nobody.

A token says who asks, and what it was asked for: policies decide on each request what of that its owner may do, so a
change of them holds at once. So does a change of the password it rests on.
Source: distribution's "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

import base64
import hmac
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

from registry_server.auth.authenticator import UnverifiedToken
from registry_server.auth.grants import Grants
from registry_server.auth.login import ISSUED_HERE, Login, Unauthenticated
from registry_server.auth.passwords import Passwords
from registry_server.auth.subject import ANONYMOUS, Subject

LIFETIME: Final = 300
"""Seconds; clients ask for another in between."""
REFRESHED_FOR: Final = 90 * 24 * 3600
"""Seconds after which a client has to send a password again."""
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "regatta"
_ACCESS: Final = "regatta"
_REFRESH: Final = "regatta/refresh"


def shared_key(file: Path) -> bytes:
    """The key in a file beside the content, which all replicas share; made by whoever comes first. Raises OSError."""
    with suppress(FileNotFoundError):
        return file.read_bytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = file.with_name(f"{file.name}.{secrets.token_hex(8)}.tmp")
    mine.touch(mode=0o600)
    try:
        mine.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):
            file.hardlink_to(mine)
    finally:
        mine.unlink()
    return file.read_bytes()


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token for access, and when it began and ends."""

    text: str
    issued: int
    expires: int
    """Unix times."""


class Tokens:
    """Issues tokens and reads them back. All workers and replicas need the same key."""

    slow: Final = False

    def __init__(self, key: bytes, passwords: Passwords | None = None) -> None:
        self._key = key
        self._passwords = passwords

    def issue(self, login: Login, grants: Grants | None = None) -> IssuedToken:
        """A token for access: for all its owner may do, or restricted to `grants`. It ends with the login."""
        now = int(time.time())
        expires = int(min(now + LIFETIME, login.expires))
        claims = self._claims(login, _ACCESS, now, expires)
        if grants is not None:
            claims["access"] = grants.claim()
        return IssuedToken(self._sign(claims), now, expires)

    def issue_refresh(self, login: Login) -> str | None:
        """A token for getting others without the password; None for who has none here, or none any more."""
        if login.hashed is None or self._passwords is None or not self._passwords.holds(login):
            return None
        now = int(time.time())
        return self._sign(self._claims(login, _REFRESH, now, now + REFRESHED_FOR))

    def refreshed(self, token: str) -> Login:
        """For whom a refresh token gets others. Raises Unauthenticated."""
        return self._read(token, _REFRESH)

    def issued(self, token: UnverifiedToken) -> bool:
        return token.claims.get("iss") == _ISSUER

    async def verify(self, token: UnverifiedToken) -> Login:
        return self._read(token.text, _ACCESS)

    def _claims(self, login: Login, audience: str, now: int, expires: int) -> dict[str, Any]:
        subject = login.subject
        claims: dict[str, Any] = {"iss": _ISSUER, "aud": audience, "iat": now, "exp": expires}
        if subject != ANONYMOUS:
            claims |= {"sub": subject.name, "kind": subject.kind, "groups": subject.groups}
        if login.hashed is not None:
            claims["password"] = self._fingerprint(subject.name)
        return claims

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, _ALGORITHM)

    def _read(self, token: str, audience: str) -> Login:
        required = {"require": ["iss", "aud", "exp"]}
        try:
            claims = jwt.decode(
                token,
                self._key,
                [_ALGORITHM],
                audience=audience,
                issuer=_ISSUER,
                options=required,  # type: ignore[arg-type]
            )
        except jwt.InvalidTokenError:
            raise Unauthenticated from None
        subject = Subject(claims["kind"], claims["sub"], tuple(claims["groups"])) if "sub" in claims else ANONYMOUS
        grants = Grants.of_claim(claims["access"]) if "access" in claims else None
        login = Login(subject, claims["exp"], grants, source=ISSUED_HERE)
        return self._with_password(login, claims["password"]) if "password" in claims else login

    def _with_password(self, login: Login, fingerprint: str) -> Login:
        """The login, resting on the password its token was issued for, if the user still has that."""
        user = login.subject.name
        now = self._fingerprint(user)
        if self._passwords is None or now is None or not hmac.compare_digest(now, fingerprint):
            raise Unauthenticated
        return login._replace(hashed=self._passwords.login(user).hashed)

    def _fingerprint(self, user: str) -> str | None:
        digest = None if self._passwords is None else self._passwords.fingerprint(self._key, user)
        return None if digest is None else base64.urlsafe_b64encode(digest[:18]).decode()
