"""Whether storage and metadata can be written and read: distribution's `health.storagedriver`, behind `/readyz`."""

import asyncio
import logging
from typing import NoReturn

from registry_server.config import StorageCheck
from registry_server.metadata.contract import Metadata
from registry_server.storage.contract import Storage, StorageError

logger = logging.getLogger(__name__)


class StorageHealth:
    """The result of the last checks."""

    def __init__(self, storage: Storage, metadata: Metadata, check: StorageCheck) -> None:
        self._storage = storage
        self._metadata = metadata
        self._check = check
        self._failures = 0
        self._last_error = ""

    @property
    def error(self) -> str | None:
        """What is wrong, after `threshold` failures in a row; None while all is well."""
        return self._last_error if self._failures >= self._check.threshold else None

    async def watch(self) -> NoReturn:
        """Check each `interval`, for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._check.interval.total_seconds())

    async def check(self) -> None:
        """Check once."""
        if not self._check.enabled:
            return
        timeout = self._check.timeout.total_seconds()
        try:
            async with asyncio.timeout(timeout):
                await self._storage.check()
                await self._metadata.check()
        except (StorageError, TimeoutError) as error:
            self._failures += 1
            self._last_error = str(error) or f"no answer within {timeout:g} s"
            logger.warning("the storage check failed %d time(s) in a row: %s", self._failures, self._last_error)
        else:
            if self._failures:
                logger.info("the storage check succeeds again")
            self._failures = 0
