"""Asks the servers that logins rest on, without ever waiting long or taking in much."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from registry_server.auth.htpasswd import Stamp
from registry_server.auth.login import LoginUnavailable

TIMEOUT: Final = aiohttp.ClientTimeout(total=10, connect=5)
LARGEST: Final = 1 << 20
"""Bytes of an answer."""


class Refused(LoginUnavailable):
    """The server answers, but not with what was asked for."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answered {status}")
        self.status = status


class Remote:
    """A server that speaks JSON, trusted by the authorities of a file, or by those of the machine."""

    def __init__(self, ca: Path | None, *, proxies: bool) -> None:
        """With `proxies`, those of the environment (`HTTPS_PROXY`) are used."""
        self._ca = ca
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None
        self._stamp: Stamp | None = None

    async def get(self, url: str) -> Any:
        """Raises LoginUnavailable."""
        return await self._ask("GET", url)

    async def post(self, url: str, body: Mapping[str, Any], *, token: str) -> Any:
        """Raises LoginUnavailable."""
        return await self._ask("POST", url, json=body, headers={"authorization": f"Bearer {token}"})

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, url: str, **more: Any) -> Any:
        try:
            session = await self._connected()
            async with session.request(method, url, allow_redirects=False, **more) as response:
                if response.status not in (200, 201):
                    raise Refused(url, response.status)
                content = await response.content.read(LARGEST + 1)
                while len(content) <= LARGEST and (piece := await response.content.read(LARGEST)):
                    content += piece
                if len(content) > LARGEST:
                    raise LoginUnavailable(f"{url} answered more than {LARGEST} bytes")
                return _json(url, content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LoginUnavailable(f"{url} does not answer: {error or type(error).__name__}") from error

    async def _connected(self) -> aiohttp.ClientSession:
        """The session, a new one once the authorities changed. Raises OSError."""
        stamp = None if self._ca is None else Stamp.of(self._ca.stat())
        if self._session is None or stamp != self._stamp:
            trust = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca)
            await self.close()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, limit=16), timeout=TIMEOUT, trust_env=self._proxies
            )
            self._stamp = stamp
        return self._session


def _json(url: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise LoginUnavailable(f"{url} did not answer with JSON") from None
