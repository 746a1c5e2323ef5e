"""What obstore leaves open of Azure: whether a copy is complete, and keys that distribution 2 has written.

A server-side copy is accepted at once and may go on for minutes, while its target is there without content. Only a
header of the target tells.

distribution 2 wrote keys that begin with `/`. obstore gets at them by an address with an empty name after the
container's, but can neither list them nor sign addresses of them.
"""

import asyncio
import hmac
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import aiohttp
import obstore
from yarl import URL

from registry_server.parallel import in_parallel
from registry_server.storage.contract import StorageError, StorageRefused

ASKED_EVERY: Final = 0.5
"""Seconds between looks at a copy that goes on."""
COPIED_WITHIN: Final = timedelta(minutes=15)
ANSWERED_WITHIN: Final = 20.0
"""Seconds for a page of a list, or a removal."""
ATTEMPTS: Final = 5
"""At either, and at a look at a copy."""
FIRST_PAUSE: Final = 0.1
"""Seconds before the second attempt; twice as long each time after."""

Address = Callable[[str], Awaitable[str]]
"""The URL at which anyone may read an object's headers."""
Signature = Callable[[], str]
"""The query that lets a request through."""


def address(store: Any, endpoint: str, container: str, signature: str | None) -> Address:
    """By the signature that is configured, else by one made for the object."""

    async def of(key: str) -> str:
        if signature is not None:
            return f"{endpoint}/{container}/{quote(key)}?{signature}"
        return str(await obstore.sign_async(store, "GET", key, COPIED_WITHIN))

    return of


def signature(config: Mapping[str, str]) -> Signature | None:
    """The signature that is configured, or one that an account's key makes; None where a login is of another kind."""
    if "sas_key" in config:
        return lambda: config["sas_key"]
    if "account_key" in config:
        return partial(_account_signature, config["account_name"], config["account_key"])
    return None


def _account_signature(account: str, key: str) -> str:
    """By it the content of an account can be read, listed and removed, for COPIED_WITHIN. Not for clients.

    Azure's "Create an account SAS", version 2019-12-12.
    """
    expires = (datetime.now(UTC) + COPIED_WITHIN).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sp": "rdl", "ss": "b", "srt": "co", "st": "", "se": expires, "sip": "", "spr": "", "sv": "2019-12-12"}
    signed = "\n".join((account, *fields.values(), ""))
    mac = b64encode(hmac.digest(b64decode(key), signed.encode(), "sha256")).decode()
    return urlencode({name: value for name, value in fields.items() if value} | {"sig": mac})


@dataclass(frozen=True, slots=True)
class SlashedObjects:
    """Lists and removes objects whose keys begin with a slash, as obstore's stores do others; told of without it.

    Azure's "List Blobs" and "Delete Blob". Raises OSError where it fails for now, and StorageRefused.
    """

    container: str
    """Its URL."""
    signature: Signature
    trust: bool
    """Whether the certificate must be trusted."""

    async def address(self, key: str) -> str:
        """The URL at which anyone may read an object's headers."""
        return f"{self.container}//{quote(key)}?{self.signature()}"

    async def list(self, prefix: str, *, chunk_size: int) -> AsyncGenerator[list[dict[str, Any]]]:
        """All objects below a folder, as many at once as `chunk_size`."""
        asked = {"prefix": f"/{prefix.rstrip('/')}/", "maxresults": str(chunk_size)}
        async for page in self._pages(asked):
            if entries := [_entry(blob) for blob in page.iterfind("Blobs/Blob")]:
                yield entries

    async def list_with_delimiter_async(self, prefix: str) -> dict[str, Any]:
        """The folders and the objects in a folder."""
        folders: list[str] = []
        objects: list[dict[str, Any]] = []
        async for page in self._pages({"prefix": f"/{prefix.rstrip('/')}/", "delimiter": "/"}):
            folders += [folder.findtext("Name", "").removeprefix("/") for folder in page.iterfind("Blobs/BlobPrefix")]
            objects += [_entry(blob) for blob in page.iterfind("Blobs/Blob")]
        return {"common_prefixes": folders, "objects": objects}

    async def delete_async(self, paths: str | Sequence[str]) -> None:
        """Remove objects. Those that are not there don't matter."""
        async with _session() as session:
            await in_parallel(partial(self._delete, session), [paths] if isinstance(paths, str) else paths)

    async def _delete(self, session: aiohttp.ClientSession, key: str) -> None:
        gone = (HTTPStatus.ACCEPTED, HTTPStatus.NOT_FOUND)
        await self._patiently(session, "DELETE", f"{self.container}//{quote(key)}?", gone)

    async def _pages(self, asked: dict[str, str]) -> AsyncGenerator[ElementTree.Element]:
        async with _session() as session:
            marker = ""
            while True:
                query = {"restype": "container", "comp": "list", **asked} | ({"marker": marker} if marker else {})
                url = f"{self.container}?{urlencode(query)}&"
                content = await self._patiently(session, "GET", url, (HTTPStatus.OK,))
                page = ElementTree.fromstring(content)  # noqa: S314, of the store that holds all we have
                yield page
                if not (marker := page.findtext("NextMarker") or ""):
                    return

    async def _patiently(
        self, session: aiohttp.ClientSession, method: str, url: str, wanted: Sequence[HTTPStatus]
    ) -> bytes:
        pause = FIRST_PAUSE
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._ask(session, method, url, wanted)
            except OSError:
                await asyncio.sleep(pause)
                pause *= 2
        return await self._ask(session, method, url, wanted)

    async def _ask(self, session: aiohttp.ClientSession, method: str, url: str, wanted: Sequence[HTTPStatus]) -> bytes:
        signed = URL(f"{url}{self.signature()}", encoded=True)
        try:
            async with session.request(method, signed, ssl=self.trust) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            # Without its text, which may have the signature in it.
            raise OSError(f"{method} of a key with a slash before it: {type(error).__name__}") from error
        if response.status in wanted:
            return content
        reason = f"{method} of a key with a slash before it: {response.status} {response.reason}"
        raise StorageRefused(reason) if response.status in _REFUSED else OSError(reason)


_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWERED_WITHIN))


def _entry(blob: ElementTree.Element) -> dict[str, Any]:
    return {
        "path": blob.findtext("Name", "").removeprefix("/"),
        "size": int(blob.findtext("Properties/Content-Length", "0")),
        "last_modified": parsedate_to_datetime(blob.findtext("Properties/Last-Modified", "")),
    }


async def copied(address: Address, key: str, *, trust: bool) -> None:
    """Wait until an object that is a copy has its content. Raises StorageError."""
    failures, status = 0, "pending"
    try:
        async with asyncio.timeout(COPIED_WITHIN.total_seconds()), aiohttp.ClientSession() as session:
            while True:
                try:
                    status = await _status(session, await address(key), trust)
                except aiohttp.ClientError:
                    failures += 1
                    if failures == ATTEMPTS:
                        raise
                if status != "pending":
                    break
                await asyncio.sleep(ASKED_EVERY)  # nothing announces it
    except (aiohttp.ClientError, TimeoutError) as error:
        # Without its text, which may have the signature in it.
        said = f"{type(error).__name__} {getattr(error, 'status', '')}".strip()
        raise StorageError(f"whether Azure's copy to {key} is complete can't be told: {said}") from error
    if status not in ("", "success"):
        raise StorageError(f"Azure's copy to {key} ended as {status}")


async def _status(session: aiohttp.ClientSession, url: str, trust: bool) -> str:
    """Empty for what is no copy, and for what others have moved away meanwhile."""
    async with session.head(URL(url, encoded=True), ssl=trust, timeout=aiohttp.ClientTimeout(total=30)) as response:
        if response.status == HTTPStatus.NOT_FOUND:
            return ""
        response.raise_for_status()
        return response.headers.get("x-ms-copy-status", "")


async def refuse_slashed(store: Any, slashed: Any, root: str) -> None:
    """Raises StorageRefused for a container with keys of distribution 2, which begin with `/`: they would be hidden.

    `slashed` opens the keys with a slash before them. Where it can't list them, the first of all keys tells: it is one
    of them, if there are any.
    """
    by_hand = isinstance(slashed, SlashedObjects)
    listing = slashed.list(f"{root}docker/registry/v2", chunk_size=1) if by_hand else obstore.list(store, chunk_size=1)
    async for entries in listing:
        key = entries[0]["path"]
        if not by_hand and not await _is_slashed(slashed, key, root):
            return
        raise StorageRefused(
            f"there are keys that begin with / as distribution 2 wrote them (/{key}): "
            "storage.azure.trimlegacyrootprefix: false serves them"
        )


async def _is_slashed(slashed: Any, key: str, root: str) -> bool:
    if not key.startswith(f"{root}docker/registry/v2/"):
        return False
    try:
        await obstore.head_async(slashed, key)
    except FileNotFoundError:
        return False
    return True


async def refuse_plain(store: Any, root: str) -> None:
    """Raises StorageRefused for a container with keys that do not begin with `/`: they would be hidden."""
    async for entries in obstore.list(store, f"{root}docker/registry/v2", chunk_size=1):
        raise StorageRefused(
            f"there are keys that don't begin with / ({entries[0]['path']}), as distribution 3 and Regatta write them: "
            "remove storage.azure.trimlegacyrootprefix: false, which hides them"
        )
