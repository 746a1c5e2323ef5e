"""Who sends a credential, on the way of every request.

    header ─► seen before? ─► who it is                             synchronous, microseconds
                  └► no ─► parse ─► a password ─► bcrypt ─► remember
                              └──► a token ─► whoever issued it ─► remember

A credential is checked once and then recognized by a keyed digest of the header it came in; no password stays in
memory, nor anything it could be guessed from without the key. What is slow to check runs in threads or waits for
others, all else in the event loop's thread.
"""

import asyncio
import base64
import binascii
import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import jwt

from registry_server.auth.login import ISSUED_HERE, NOBODY, Login, TooManyAttempts, Unauthenticated
from registry_server.auth.passwords import Passwords
from registry_server.auth.throttle import Throttle

LONGEST_HEADER: Final = 32 << 10
"""Characters; a token with many groups or a chain of certificates fits."""
LONGEST_KEPT: Final = 512
"""Characters of a bearer token that is kept as it is, for speed: so short are those made here, for five minutes."""
LONGEST_REMEMBERED: Final = 2048
"""Characters of a token made here that is remembered: anyone may get longer ones, and a check takes microseconds."""
REFUSED_FOR: Final = 60.0
"""Seconds a wrong password is remembered as such: a client that sends it again and again guesses nothing."""


class UnverifiedToken(NamedTuple):
    """What a token says of itself, which tells who has to judge it and nothing more."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]


class TokenIssuer(Protocol):
    """Whoever can tell for whom a token speaks."""

    @property
    def slow(self) -> bool:
        """Whether each look at a token takes another's time, so that wrong ones must be throttled."""

    def issued(self, token: UnverifiedToken, /) -> bool:
        """Whether a token claims to be of this issuer."""

    async def verify(self, token: UnverifiedToken, /) -> Login:
        """Raises Unauthenticated, LoginUnavailable."""


class Authenticator:
    """All the logins of a registry; with none at all everyone is nobody, whatever they send."""

    def __init__(
        self,
        *,
        passwords: Passwords | None = None,
        issuers: Sequence[TokenIssuer] = (),
        throttle: Throttle | None = None,
        checked: int = 66,
        remembered: int = 16_384,
    ) -> None:
        """At most `checked` credentials of a kind are checked at a time; the `remembered` used last need no check."""
        self._passwords = passwords
        self._issuers = issuers
        self._throttle = Throttle() if throttle is None else throttle
        self._bound = checked
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes | str, Login] = OrderedDict()
        self._kept = remembered
        self._refused: OrderedDict[bytes | str, float] = OrderedDict()
        self._checks: dict[bytes | str, asyncio.Task[Login]] = {}
        self._checked_by: Counter[TokenIssuer | None] = Counter()
        """How many are being checked by each issuer, and by bcrypt: who hangs must not hold up the others."""

    @property
    def enabled(self) -> bool:
        """Whether there are logins."""
        return self._passwords is not None or bool(self._issuers)

    def recognize(self, header: str | None) -> Login | None:
        """Who sent this `Authorization` header, when that takes no check; else None, and `authenticate` finds out."""
        if header is None or not self.enabled:
            return NOBODY
        digest = self._digest(header)
        login = self._remembered.get(digest)
        if login is None:
            return None
        if login.expires <= time.time():
            del self._remembered[digest]
            return None
        self._remembered.move_to_end(digest)
        return login

    async def authenticate(self, header: str | None, address: str) -> Login:
        """Who sent this `Authorization` header from this address.

        Requests with the same header that come while it is checked share that one check. Raises Unauthenticated,
        TooManyAttempts, LoginUnavailable.
        """
        known = self.recognize(header)
        if known is not None or header is None:
            return known or NOBODY
        digest = self._digest(header)
        check = self._checks.get(digest)
        if check is None:
            credential = _parse(header)
            if self._refused.get(digest, 0) > time.monotonic():
                raise Unauthenticated
            check = self._start(digest, credential, address)
        # One of several requests that share the check may be cancelled; the others still wait for it.
        return await asyncio.shield(check)

    def reload_if_changed(self) -> bool:
        """Follow the users' file; returns whether they changed.

        Those whose hash stayed stay logged in, all others must prove themselves again.
        """
        if self._passwords is None or not self._passwords.reload_if_changed():
            return False
        self._remembered = OrderedDict(item for item in self._remembered.items() if self._passwords.holds(item[1]))
        self._refused.clear()
        return True

    def forget(self, source: str) -> None:
        """Let everyone prove themselves again for whom `source` vouched: it may judge otherwise now."""
        self._remembered = OrderedDict(item for item in self._remembered.items() if item[1].source != source)

    def close(self) -> None:
        """End the threads, after what they are at."""
        if self._passwords is not None:
            self._passwords.close()

    def _digest(self, header: str) -> bytes | str:
        """What a credential is recognized by."""
        if len(header) <= LONGEST_KEPT and header.startswith("Bearer "):
            return header
        return hashlib.blake2b(header.encode("utf-8", "surrogatepass"), key=self._key, digest_size=32).digest()

    def _start(
        self, digest: bytes | str, credential: "_Password | UnverifiedToken", address: str
    ) -> asyncio.Task[Login]:
        """Raises Unauthenticated, TooManyAttempts."""
        issuer = self._issuer(credential)
        slow = issuer is None or issuer.slow
        if slow and (wait := self._throttle.wait(address)):
            raise TooManyAttempts(wait)
        if self._checked_by[issuer] >= self._bound:
            raise TooManyAttempts
        check = asyncio.create_task(self._check(digest, credential, issuer, address if slow else None))
        self._checks[digest] = check
        self._checked_by[issuer] += 1

        def ended(_: asyncio.Task[Login]) -> None:
            del self._checks[digest]
            self._checked_by[issuer] -= 1

        check.add_done_callback(ended)
        return check

    def _issuer(self, credential: "_Password | UnverifiedToken") -> TokenIssuer | None:
        """Who judges a token, None for a password. Raises Unauthenticated where nobody does."""
        if isinstance(credential, UnverifiedToken):
            for issuer in self._issuers:
                if issuer.issued(credential):
                    return issuer
            raise Unauthenticated
        if self._passwords is None:
            raise Unauthenticated
        return None

    async def _check(
        self,
        digest: bytes | str,
        credential: "_Password | UnverifiedToken",
        issuer: TokenIssuer | None,
        address: str | None,
    ) -> Login:
        """`address` is where failures count against, None for what takes no time to refuse."""
        try:
            if isinstance(credential, UnverifiedToken):
                assert issuer is not None  # noqa: S101  (who has a token judged found someone to judge it)
                login = await issuer.verify(credential)
            else:
                assert self._passwords is not None  # noqa: S101  (as above)
                login = await self._passwords.check(credential.user, credential.password)
        except Unauthenticated:
            if address is not None:
                self._throttle.failed(address)
                _remember(self._refused, digest, time.monotonic() + REFUSED_FOR, self._kept)
            raise
        if (
            login.source == ISSUED_HERE
            and isinstance(credential, UnverifiedToken)
            and len(credential.text) > LONGEST_REMEMBERED
        ):
            return login
        if self._passwords is None or self._passwords.holds(login):
            _remember(self._remembered, digest, login, self._kept)
        return login


class _Password(NamedTuple):
    user: str
    password: bytes


def _remember(kept: OrderedDict[bytes | str, Any], digest: bytes | str, what: Any, most: int) -> None:
    kept[digest] = what
    if len(kept) > most:
        kept.popitem(last=False)


def _parse(header: str) -> _Password | UnverifiedToken:
    """What an `Authorization` header has: a password (RFC 7617) or a token (RFC 6750), which may stand for a password.

    Raises Unauthenticated.
    """
    scheme, _, rest = header.partition(" ")
    if len(header) > LONGEST_HEADER:
        raise Unauthenticated
    if scheme.lower() == "bearer":
        return read_token(rest.strip())
    if scheme.lower() != "basic":
        raise Unauthenticated
    try:
        user, colon, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
        name = user.decode()
    except (binascii.Error, ValueError):
        raise Unauthenticated from None
    if not colon:
        raise Unauthenticated
    # Only a password of bcrypt's 72 bytes can have a hash; every token is longer.
    if password.startswith(b"eyJ") and password.count(b".") == 2 and len(password) > 72:
        return read_token(password.decode("ascii", "replace"))
    return _Password(name, password)


def read_token(text: str) -> UnverifiedToken:
    """A JSON Web Token, not verified. Raises Unauthenticated."""
    try:
        token = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise Unauthenticated from None
    return UnverifiedToken(text, token["header"], token["payload"])


def basic_challenge(realm: str) -> str:
    """The value of `WWW-Authenticate` that asks for a Basic login (RFC 7617, 2; quoting by RFC 9110, 5.6.4)."""
    return f'Basic realm="{quoted(realm)}"'


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a header's parameter."""
    return text.replace("\\", r"\\").replace('"', r"\"")
