"""What obstore leaves open of Azure: whether a copy is complete, and keys that distribution 2 has written.

A server-side copy is accepted at once and may go on for minutes, while its target is there without content. Only a
header of the target tells.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import obstore
from yarl import URL

from registry_server.storage.contract import StorageError, StorageRefused

ASKED_EVERY: Final = 0.5
"""Seconds between looks at a copy that goes on."""
COPIED_WITHIN: Final = timedelta(minutes=15)

Address = Callable[[str], Awaitable[str]]
"""The URL at which anyone may read an object's headers."""


def address(store: Any, endpoint: str, container: str, signature: str | None) -> Address:
    """By the signature that is configured, else by one made for the object."""

    async def of(key: str) -> str:
        if signature is not None:
            return f"{endpoint}/{container}/{quote(key)}?{signature}"
        return str(await obstore.sign_async(store, "GET", key, COPIED_WITHIN))

    return of


async def copied(address: Address, key: str, *, trust: bool) -> None:
    """Wait until an object that is a copy has its content. Raises StorageError."""
    try:
        async with asyncio.timeout(COPIED_WITHIN.total_seconds()), aiohttp.ClientSession() as session:
            url = await address(key)
            while (status := await _status(session, url, trust)) == "pending":  # noqa: ASYNC110  (nothing announces it)
                await asyncio.sleep(ASKED_EVERY)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StorageError(
            f"whether Azure's copy to {key} is complete can't be told: {type(error).__name__}"
        ) from error
    if status not in (None, "success"):
        raise StorageError(f"Azure's copy to {key} ended as {status}")


async def _status(session: aiohttp.ClientSession, url: str, trust: bool) -> str | None:
    async with session.head(URL(url, encoded=True), ssl=trust, timeout=aiohttp.ClientTimeout(total=30)) as response:
        response.raise_for_status()
        return response.headers.get("x-ms-copy-status")


async def refuse_old_keys(store: Any, slashed: Any, root: str) -> None:
    """Raises StorageRefused for a container with keys of distribution 2, which begin with `/` and can't be listed.

    `slashed` opens the keys with a slash before them. They come first in the list of all.
    """
    async for entries in obstore.list(store, chunk_size=1):
        key = entries[0]["path"]
        if not key.startswith(f"{root}docker/registry/v2/"):
            return
        try:
            await obstore.head_async(slashed, key)
        except FileNotFoundError:
            return
        raise StorageRefused(
            f"there are keys that begin with / as distribution 2 wrote them (/{key}); distribution 3 and Regatta don't "
            "read them: copy them to names without it, for example with azcopy"
        )
