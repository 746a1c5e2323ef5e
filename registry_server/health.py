"""Whether the server can do its work, behind `/readyz`: distribution's `health`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import NoReturn, Protocol

from registry_server.config import FileCheck, Health, HTTPCheck, TCPCheck
from registry_server.config.scalars import parse_address
from registry_server.metadata.contract import Metadata
from registry_server.storage.contract import Storage, StorageError

logger = logging.getLogger(__name__)


class Often(Protocol):
    """How often to look, how long, and how many failures in a row count."""

    @property
    def interval(self) -> timedelta: ...
    @property
    def timeout(self) -> timedelta: ...
    @property
    def threshold(self) -> int: ...


class CheckFailed(Exception):
    """What a check looked at is not as it should be; the message says why, for a log."""


class Check:
    """One thing to look at, and the results of the last looks."""

    def __init__(self, kind: str, what: str, look: Callable[[], Awaitable[None]], often: Often) -> None:
        """`look` raises CheckFailed or StorageError."""
        self.kind = kind
        self._name = f"{kind} check of {what}" if what else f"{kind} check"
        self._look = look
        self._often = often
        self._failures = 0
        self._last_error = ""

    @property
    def error(self) -> str | None:
        """What is wrong, after `threshold` failures in a row; None while all is well."""
        return self._last_error if self._failures >= self._often.threshold else None

    async def watch(self) -> NoReturn:
        """Check each `interval`, for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._often.interval.total_seconds())

    async def check(self) -> None:
        """Check once."""
        timeout = self._often.timeout.total_seconds()
        try:
            async with asyncio.timeout(timeout):
                await self._look()
        except (CheckFailed, StorageError, TimeoutError) as error:
            self._failures += 1
            self._last_error = str(error) or f"no answer within {timeout:g} s"
            logger.warning("the %s failed %d time(s) in a row: %s", self._name, self._failures, self._last_error)
        else:
            if self._failures:
                logger.info("the %s succeeds again", self._name)
            self._failures = 0


class ServerHealth:
    """All checks of one configuration."""

    def __init__(self, storage: Storage, metadata: Metadata, settings: Health) -> None:
        self.waiting: str | None = None
        """What has to happen before the first request is answered."""
        content = Check("storage", "", partial(_look_at_content, storage, metadata), settings.storagedriver)
        self._checks: Sequence[Check] = [
            *([content] if settings.storagedriver.enabled else ()),
            *(Check("file", str(one.file), partial(_look_at_file, one), one) for one in settings.file),
            *(Check("http", one.address, partial(_look_at_http, one), one) for one in settings.http),
            *(Check("tcp", one.addr, partial(_look_at_tcp, one), one) for one in settings.tcp),
        ]

    @property
    def errors(self) -> dict[str, str]:
        """What is wrong, by the kind of the check: whoever asks may not be meant to know what is looked at."""
        waiting = {} if self.waiting is None else {"serving": self.waiting}
        return waiting | {check.kind: check.error for check in self._checks if check.error is not None}

    async def watch(self) -> None:
        """Check for ever."""
        await asyncio.gather(*(check.watch() for check in self._checks))

    async def check(self) -> None:
        """Check everything once."""
        await asyncio.gather(*(check.check() for check in self._checks))


async def _look_at_content(storage: Storage, metadata: Metadata) -> None:
    await storage.check()
    await metadata.check()


async def _look_at_file(settings: FileCheck) -> None:
    if await asyncio.to_thread(settings.file.exists):
        raise CheckFailed("the file exists")


async def _look_at_http(settings: HTTPCheck) -> None:
    from aiohttp import ClientError, ClientSession  # much to load for those who check nothing

    url = settings.uri.get_secret_value()
    headers = [(name, value.get_secret_value()) for name, values in settings.headers.items() for value in values]
    try:
        async with (
            ClientSession(trust_env=True) as session,
            session.head(url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != settings.statuscode:
                raise CheckFailed(f"it answers {response.status} rather than {settings.statuscode}")
    except (ClientError, OSError) as error:
        raise CheckFailed(f"it can't be asked ({type(error).__name__})") from error


async def _look_at_tcp(settings: TCPCheck) -> None:
    address = parse_address(settings.addr)
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as error:
        raise CheckFailed(error.strerror or "it takes no connections") from error
    writer.close()
