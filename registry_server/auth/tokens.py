"""Bearer tokens that the registry issues for itself, at `/auth/token`.

A Docker client that met a `Basic` challenge sends no anonymous request any more, so a registry which anyone may pull
from and some may push to must challenge with `Bearer`: a client without a login then gets a token for nobody.

A token says who asks, not what they may do: policies decide that on each request, so a change of them holds at once.
Source: distribution's "Token Authentication Specification".
"""

import secrets
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jwt

from registry_server.auth.subject import ANONYMOUS, Subject

LIFETIME: Final = 300
"""Seconds; clients ask for another in between."""
KEPT: Final = 4096
"""Tokens whose signature a process need not check again."""
_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "regatta"


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


class Tokens:
    """Issues tokens and reads them back. All workers and replicas need the same key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._kept: OrderedDict[str, tuple[Subject, float]] = OrderedDict()

    def issue(self, subject: Subject) -> dict[str, Any]:
        """The answer of a token endpoint for a subject."""
        now = int(time.time())
        claims: dict[str, Any] = {"aud": _AUDIENCE, "iat": now, "exp": now + LIFETIME}
        if subject != ANONYMOUS:
            claims["sub"] = subject.name
        token = jwt.encode(claims, self._key, _ALGORITHM)
        issued_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return {"token": token, "access_token": token, "expires_in": LIFETIME, "issued_at": issued_at}

    def subject(self, token: str) -> Subject | None:
        """Who a token speaks for; None when it is not ours or no longer valid."""
        kept = self._kept.get(token)
        if kept is not None:
            return kept[0] if kept[1] > time.time() else None
        try:
            claims = jwt.decode(token, self._key, [_ALGORITHM], audience=_AUDIENCE, options={"require": ["exp", "aud"]})
        except jwt.InvalidTokenError:
            return None
        subject = Subject.user(claims["sub"]) if "sub" in claims else ANONYMOUS
        self._kept[token] = (subject, claims["exp"])
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return subject
