"""Basic logins (RFC 7617) against an htpasswd file, on the way of every request.

    header ─► seen before? ─► who it is                       synchronous, microseconds
                  └► no ─► parse ─► bcrypt in a thread ─► remember

bcrypt costs tens of milliseconds by design, so a credential is checked once and then recognized by a keyed digest of
the header it came in; no password stays in memory, nor anything it could be guessed from without the key. All of it but
bcrypt runs in the event loop's thread.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from registry_server.auth.htpasswd import HtpasswdError, Stamp, Users, check_password
from registry_server.auth.subject import ANONYMOUS, Subject

logger = logging.getLogger(__name__)

_LONGEST_HEADER = 4096
"""Characters; a name and a password of more than a thousand bytes each fit."""


class Unauthenticated(Exception):
    """The credentials are missing, malformed or wrong; which of them is nobody's business."""


class TooManyAttempts(Exception):
    """So many logins wait to be checked that one more would only wait in vain."""

    retry_after = 1
    """Seconds after which trying again makes sense."""


class _Verified(NamedTuple):
    subject: Subject
    hashed: bytes
    """The hash the password was checked against; once the file has another, this no longer counts."""


class Authenticator:
    """The logins of one htpasswd file, or none at all: then everyone is anonymous, whatever they send."""

    def __init__(self, path: Path | None, *, concurrency: int = 2, waiting: int = 64, remembered: int = 16_384) -> None:
        """Raises HtpasswdError for a file that cannot be used.

        At most `concurrency` passwords are checked at a time and `waiting` more wait; the `remembered` credentials used
        last need no check.
        """
        self._path = path
        self._users = Users.load(path) if path else None
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="bcrypt")
        self._bound = concurrency + waiting
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._remembered = remembered
        self._checks: dict[bytes, asyncio.Task[Subject]] = {}
        self._unusable: Stamp | str | None = None

    @property
    def enabled(self) -> bool:
        """Whether there are logins."""
        return self._users is not None

    def knows(self, subject: Subject) -> bool:
        """Whether the subject of a token still has a login, or never needed one."""
        return subject == ANONYMOUS or (self._users is not None and subject.name in self._users.hashes)

    def authenticate_cached(self, header: str | None) -> Subject | None:
        """Who sent this `Authorization` header, when that takes no bcrypt; else None, and `authenticate` finds out."""
        if header is None or self._users is None:
            return ANONYMOUS
        digest = self._digest(header)
        known = self._verified.get(digest)
        if known is None:
            return None
        self._verified.move_to_end(digest)
        return known.subject

    async def authenticate(self, header: str | None) -> Subject:
        """Who sent this `Authorization` header; raises Unauthenticated, TooManyAttempts.

        Requests with the same header that come while it is checked share that one check.
        """
        known = self.authenticate_cached(header)
        if known is not None or header is None:
            return known or ANONYMOUS
        user, password = _parse(header)
        digest = self._digest(header)
        check = self._checks.get(digest)
        if check is None:
            if len(self._checks) >= self._bound:
                raise TooManyAttempts
            check = asyncio.create_task(self._check(digest, user, password))
            self._checks[digest] = check
            check.add_done_callback(lambda _: self._checks.pop(digest))
        # One of several requests that share the check may be cancelled; the others still wait for it.
        return await asyncio.shield(check)

    def reload_if_changed(self) -> bool:
        """Read the file again if it is another than before; returns whether the users changed.

        Those whose hash stayed stay logged in, all others must prove themselves again. A file that cannot be used
        changes nothing and is logged once.
        """
        if self._path is None or self._users is None:
            return False
        try:
            stamp: Stamp | str = Stamp.of(self._path.stat())
        except OSError as error:
            stamp = str(error)
        if stamp == self._users.stamp:
            self._unusable = None
            return False
        if stamp == self._unusable:
            return False
        try:
            users = Users.load(self._path)
        except HtpasswdError as error:
            self._unusable = stamp
            logger.error("%s; the users read before stay in force", "; ".join(error.faults))  # noqa: TRY400
            return False
        self._users, self._unusable = users, None
        still = ((key, one) for key, one in self._verified.items() if users.hashes.get(one.subject.name) == one.hashed)
        self._verified = OrderedDict(still)
        logger.info("%s changed; it has %d user(s) now", self._path, len(users.hashes))
        return True

    def close(self) -> None:
        """End the threads, after what they are at."""
        self._executor.shutdown(cancel_futures=True)

    def _digest(self, header: str) -> bytes:
        return hmac.digest(self._key, header.encode(errors="surrogatepass"), "sha256")

    async def _check(self, digest: bytes, user: str, password: bytes) -> Subject:
        users = self._users
        assert users is not None  # noqa: S101  (nobody checks without users)
        hashed = users.hashes.get(user)
        # A name that does not exist takes as long as one that does, else the time would tell which names exist.
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._executor, check_password, password, hashed or users.dummy)
        if not right or hashed is None:
            raise Unauthenticated
        subject = Subject.user(user)
        if self._users is not None and self._users.hashes.get(user) == hashed:
            self._verified[digest] = _Verified(subject, hashed)
            if len(self._verified) > self._remembered:
                self._verified.popitem(last=False)
        return subject


def _parse(header: str) -> tuple[str, bytes]:
    """User and password of a Basic header; raises Unauthenticated."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > _LONGEST_HEADER:
        raise Unauthenticated
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        if colon:
            return user.decode(), password
    except (binascii.Error, ValueError):
        pass
    raise Unauthenticated


def basic_challenge(realm: str) -> str:
    """The value of `WWW-Authenticate` that asks for a Basic login (RFC 7617, 2; quoting by RFC 9110, 5.6.4)."""
    escaped = realm.replace("\\", r"\\").replace('"', r"\"")
    return f'Basic realm="{escaped}"'
