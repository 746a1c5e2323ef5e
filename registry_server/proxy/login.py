"""How the cache logs in to an upstream: by the challenge that the upstream answers with, Basic or Bearer.

Credentials go to the upstream itself and to the token server that it names, and to no place that it redirects to.
Sources: RFC 9110 (11.6.1), distribution's "Token Authentication Specification", docker-credential-helpers.
"""

import asyncio
import json
import logging
import os
import re
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from yarl import URL

from registry_server.config.proxy import CredentialHelper, Remote
from registry_server.registry.errors import Denied, Unavailable

logger = logging.getLogger(__name__)

KEPT_TOKENS: Final = 1024
"""Repositories whose token is kept; clients choose their names."""
SHORTEST: Final = 60
"""Seconds a token lasts that does not say (the specification's minimum)."""
MARGIN: Final = 5
"""Seconds before its end at which a token is no longer used."""
HELPER_TIME: Final = 30
"""Seconds that a credential helper may take."""

_PARAMETER = re.compile(r'([a-zA-Z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|$)", re.IGNORECASE)


class Credentials(NamedTuple):
    """A login. Its secret is for headers alone."""

    username: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r})"

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header."""
        return "Basic " + b64encode(f"{self.username}:{self.secret}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """How an upstream wants to be asked."""

    realm: URL | None
    """Where tokens come from; None where the login itself is sent."""
    service: str = ""

    @classmethod
    def read(cls, headers: Iterable[str]) -> "Challenge | None":
        """The challenge in the values of `WWW-Authenticate`, Bearer rather than Basic; None without one we know."""
        found: Challenge | None = None
        for header in headers:
            _, *parts = _SCHEME.split(header)
            for scheme, text in zip(parts[::2], parts[1::2], strict=True):
                if scheme.lower() == "basic":
                    found = found or cls(None)
                    continue
                parameters = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(text)}
                with suppress(KeyError, ValueError):
                    return cls(URL(parameters["realm"]), parameters.get("service", ""))
        return found


class Ask(Protocol):
    """Fetches a small JSON document; raises Unavailable, TooManyRequests, Denied."""

    async def __call__(self, url: URL, headers: Mapping[str, str]) -> object: ...


class _Token(NamedTuple):
    value: str
    expires: float


class Login:
    """What is known of how to be let in by one upstream."""

    def __init__(self, settings: Remote, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self._host = settings.host
        self._secure = settings.remoteurl.startswith("https:")
        self._helper = settings.exec
        self._given = (
            Credentials(settings.username, settings.password.get_secret_value()) if settings.username else None
        )
        self._given_until = 0.0
        self._ask = ask
        self._clock = clock
        self._challenge: Challenge | None = None
        self._tokens: OrderedDict[str, _Token] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Token]] = {}

    async def header(self, repository: str) -> str | None:
        """The value of `Authorization` for a pull from a repository; None as long as none was asked for.

        Raises Unavailable, TooManyRequests, Denied: what kept a token from being had.
        """
        if self._challenge is None:
            return None
        if self._challenge.realm is None:
            credentials = await self._credentials()
            return None if credentials is None else credentials.basic
        token = self._tokens.get(repository)
        if token is None or token.expires <= self._clock():
            token = await self._new_token(self._challenge, repository)
        return f"Bearer {token.value}"

    async def learn(self, challenges: Iterable[str], repository: str, *, refused: str | None) -> bool:
        """Take note of a 401 with its challenges; False if asking again would bring the same.

        `refused` is the `Authorization` that was sent. One from a kept token or login may just have run out.
        """
        challenge = Challenge.read(challenges)
        if challenge is None:
            return False
        if challenge.realm is not None and self._secure and challenge.realm.scheme != "https":
            raise Unavailable(f"{self._host} names a token server without TLS; no login is sent there")
        known, self._challenge = self._challenge, challenge
        if challenge.realm is None:
            if known == challenge and refused is not None and not self._helper:
                return False
            self._given_until = 0.0
            return await self._credentials() is not None
        self._tokens.pop(repository, None)
        return True

    async def _new_token(self, challenge: Challenge, repository: str) -> _Token:
        """A token for all who want one at the same time; one who leaves does not keep it from the others."""
        task = self._asking.get(repository)
        if task is None:
            task = self._asking[repository] = asyncio.create_task(self._token(challenge, repository))
            task.add_done_callback(lambda done: self._answered(repository, done))
        return await asyncio.shield(task)

    def _answered(self, repository: str, task: "asyncio.Task[_Token]") -> None:
        del self._asking[repository]
        if task.cancelled() or task.exception() is not None:
            return
        self._tokens[repository] = task.result()
        self._tokens.move_to_end(repository)
        if len(self._tokens) > KEPT_TOKENS:
            self._tokens.popitem(last=False)

    async def _token(self, challenge: Challenge, repository: str) -> _Token:
        assert challenge.realm is not None  # noqa: S101  (only called with one)
        query = {"scope": f"repository:{repository}:pull"} | (
            {"service": challenge.service} if challenge.service else {}
        )
        credentials = await self._credentials()
        headers = {} if credentials is None else {"Authorization": credentials.basic}
        answer = await self._ask(challenge.realm.update_query(query), headers)
        fields = answer if isinstance(answer, dict) else {}
        value = fields.get("token") or fields.get("access_token")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise Unavailable(f"the token server of {self._host} sent no token")
        lasts = fields.get("expires_in")
        seconds = lasts if isinstance(lasts, int | float) and lasts > 0 else SHORTEST
        return _Token(value, self._clock() + max(seconds - MARGIN, 1))

    async def _credentials(self) -> Credentials | None:
        if self._helper is not None and self._given_until <= self._clock():
            self._given = await _ask_helper(self._helper, self._host)
            lifetime = self._helper.lifetime
            self._given_until = float("inf") if lifetime is None else self._clock() + lifetime.total_seconds()
        return self._given


async def _ask_helper(helper: CredentialHelper, host: str) -> Credentials:
    """The login that a credential helper knows for a host. Raises Denied; what it printed may be a secret."""
    question, end = os.pipe()
    try:
        # Asked before it starts: one that ends without listening is nobody's fault.
        os.write(end, f"{host}\n".encode())
        os.close(end)
        process = await asyncio.create_subprocess_exec(
            helper.command,
            "get",
            stdin=question,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        logger.error("proxy.exec: %s can't be run: %s", helper.command, error.strerror)  # noqa: TRY400
        raise Denied(f"the login for {host} can't be had; the server's log says why") from error
    finally:
        os.close(question)
    try:
        async with asyncio.timeout(HELPER_TIME):
            said, _ = await process.communicate()
        answer = json.loads(said) if process.returncode == 0 else {}
        return Credentials(str(answer["Username"]), str(answer["Secret"]))
    except (TimeoutError, ValueError, KeyError, TypeError) as error:
        code = process.returncode
        reason = f"gave no answer within {HELPER_TIME} s" if code is None else f"gave no login (exit code {code})"
        logger.error("proxy.exec: %s %s", helper.command, reason)  # noqa: TRY400
        raise Denied(f"the login for {host} can't be had; the server's log says why") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
