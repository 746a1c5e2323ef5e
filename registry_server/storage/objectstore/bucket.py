"""A bucket: bytes under keys, with faults told in the contract's terms.

Several clients of obstore's speak to it, which differ in their patience: for requests that are answered soon or not at
all, for content, whose transfer takes as long as it takes, and for copies. All try again what failed for no lasting
reason.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol

import obstore
from obstore import exceptions

from registry_server.parallel import in_parallel
from registry_server.storage.contract import StorageError, StorageFull, StorageRefused
from registry_server.storage.objectstore.breaker import Breaker
from registry_server.storage.observing import Observer

logger = logging.getLogger(__name__)

PIECE: Final = 256 << 10
"""Bytes of content handed on at a time."""
PARTS_AT_ONCE: Final = 2
"""Parts of a large object on the way to the store at a time; an upload holds two more in memory at most."""
MAX_PARTS: Final = 9_000
"""Parts that a large object has at most; S3 allows 10,000."""
MOST_COPIED: Final = 4 << 30
"""Bytes of an object that a store copies in one request; S3 stops at 5 GB."""
SIGNED_FOR: Final = timedelta(minutes=20)
"""How long a client may use an address it was sent to, as in distribution."""
ATTEMPTS: Final = 4
"""Times that a small object is written which others write at the same moment."""
STALLED_AFTER: Final = 60
"""Seconds after which content that was to come from the store does not come any more."""

Version = Any
"""What names one state of an object, for obstore."""

_FULL = re.compile(r"status code: 507|StorageFull|QuotaExceeded")
_CAUSE = re.compile(r'InvalidCertificate\(\s*(\w+)|(?:message|error): "([^"]+)"')
"""Where obstore's account of an error has what a person can do something about."""
_QUERY = re.compile(r"\?[^\s\"')]+")


class Conflict(Exception):
    """Another request has changed an object, or made it, in between."""


class Objects(Protocol):
    """Lists and removes objects. obstore's stores do; its types say what comes back."""

    def list(self, prefix: str, *, chunk_size: int) -> Any: ...
    async def list_with_delimiter_async(self, prefix: str) -> Any: ...
    async def delete_async(self, paths: str | Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Clients:
    """What obstore opens a bucket with; see `connect`."""

    quick: Any
    """For small requests."""
    bulk: Any
    """For content."""
    copying: Any
    """For copies that the store makes."""
    signing: Any | None
    """For addresses that clients are sent to; None where they get everything from us."""
    chunk: int
    """Bytes of a part of a large object."""
    name: str
    """For people."""
    attributes: dict[str, str]
    """Of every object written, such as its storage class."""
    copies: bool = True
    """Whether a copy made by the store is like an object written."""
    objects: Objects | None = None
    """To list and to remove, where `quick` can't."""
    copied: Callable[[str], Awaitable[None]] | None = None
    """Waits for a copy to be complete, where a store says that it is before it is."""
    accepts: Callable[[], Awaitable[None]] | None = None
    """Raises StorageRefused for content that can't be served."""


class Entry(NamedTuple):
    """An object in a list."""

    key: str
    size: int
    changed: float
    """Seconds since 1970."""


class Bucket:
    """The objects below a root."""

    def __init__(self, clients: Clients, root: str, observe: Observer) -> None:
        self._clients = clients
        self._objects: Objects = clients.objects or clients.quick
        self._root = f"{root}/" if root else ""
        self._observe = observe
        self._breaker = Breaker()
        self._conditional = True
        self._signing_failed = False
        self.chunk = clients.chunk
        self.copies = clients.copies
        self.name = clients.name

    async def get(self, key: str) -> bytes | None:
        """A small object's content."""
        found = await self.get_version(key)
        return None if found is None else found[0]

    async def get_version(self, key: str) -> tuple[bytes, Version] | None:
        """A small object's content, and its version."""
        with self._asking("read"):
            try:
                result = await obstore.get_async(self._clients.quick, self._root + key)
                content = bytes(await result.bytes_async())
            except FileNotFoundError:
                return None
            return content, _version(result.meta)

    async def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        found = await self.entry(key)
        return None if found is None else found.size

    async def entry(self, key: str) -> Entry | None:
        """An object as a list would have it; None where there is none."""
        with self._asking("head"):
            try:
                meta = await obstore.head_async(self._clients.quick, self._root + key)
            except FileNotFoundError:
                return None
            return Entry(key, int(meta["size"]), meta["last_modified"].timestamp())

    async def put(self, key: str, content: bytes, *, replacing: Version | None = None, new: bool = False) -> Version:
        """Write an object, whole or not at all; returns its version.

        With `replacing` only if that is still its version, with `new` only if there is none: raises Conflict.
        """
        mode: Any = "create" if new else replacing or "overwrite"
        for attempt in range(ATTEMPTS):
            try:
                return await self._put(key, content, mode if self._conditional else "overwrite")
            except (exceptions.NotSupportedError, NotImplementedError):
                logger.warning("%s knows no conditional writes: of two writers to one upload the last wins", self.name)
                self._conditional = False
            except Conflict as error:
                if mode != "overwrite":
                    raise
                # Stores answer so, too, while another writes the same key.
                logger.info("%s: writing %s conflicts with another request", self.name, key)
                if attempt == ATTEMPTS - 1:
                    raise StorageError(f"{self.name}: {key} is being written by others") from error
                await asyncio.sleep(0.05 * 2**attempt)
        raise StorageError(f"{self.name} takes no writes")

    async def create(self, key: str, content: bytes) -> bool:
        """Write an object where there is none; False where there is one. Of several who try, one does."""
        try:
            await self.put(key, content, new=True)
        except Conflict:
            return False
        return True

    async def _put(self, key: str, content: bytes, mode: Any) -> Version:
        client = self._clients.quick if len(content) <= PIECE else self._clients.bulk
        options = {"mode": mode, "use_multipart": False, "attributes": self._clients.attributes}
        with self._asking("write"):
            try:
                return _version(await obstore.put_async(client, self._root + key, content, **options))
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
                raise Conflict(key) from error
            except FileNotFoundError as error:
                if isinstance(mode, dict):
                    raise Conflict(key) from error
                raise StorageRefused(f"there is no {self.name}") from error

    async def put_stream(self, key: str, pieces: AsyncIterator[bytes], *, size: int) -> None:
        """Write a large object of at most `size` bytes; nothing of it is there before `pieces` has ended well."""
        with self._asking("write_content"):
            await obstore.put_async(
                self._clients.bulk,
                self._root + key,
                pieces,
                use_multipart=True,
                chunk_size=max(self.chunk, -(-size // MAX_PARTS)),
                max_concurrency=PARTS_AT_ONCE,
                attributes=self._clients.attributes,
            )

    async def copy(self, source: str, target: str) -> bool:
        """Let the store copy an object; False where there is no `source`."""
        with self._asking("copy"):
            try:
                await obstore.copy_async(self._clients.copying, self._root + source, self._root + target)
            except FileNotFoundError:
                return False
            if self._clients.copied is not None:
                await self._clients.copied(self._root + target)
            return True

    async def duplicate(self, source: Entry, target: str) -> bool:
        """Copy an object of any size, by way of this process where the store does not; False where it is gone."""
        if self.copies and source.size <= MOST_COPIED:
            return await self.copy(source.key, target)
        if await self.entry(source.key) is None:
            return False
        await self.put_stream(target, self.read(source.key, 0, source.size), size=source.size)
        return True

    async def accept(self) -> None:
        """Raises StorageRefused for content of a form that can't be served."""
        if self._clients.accepts is not None:
            with self._asking("list"):
                await self._clients.accepts()

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Part of an object, as fast as it is taken. Raises StorageError."""
        with self._asking("read_content"):
            try:
                result = await obstore.get_async(self._clients.bulk, self._root + key, options={"range": (start, end)})
            except FileNotFoundError as error:
                raise StorageError(f"{key} is gone from {self.name}") from error
        pieces = aiter(result.stream(min_chunk_size=PIECE))
        while True:
            # The time a client takes between two pieces doesn't count.
            with self._asking("read_content", begun=True):
                try:
                    async with asyncio.timeout(STALLED_AFTER):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
            yield bytes(piece)

    async def url(self, key: str) -> str | None:
        """Where anyone may read an object for SIGNED_FOR; None where that can't be said."""
        if self._clients.signing is None:
            return None
        try:
            return str(await obstore.sign_async(self._clients.signing, "GET", self._root + key, SIGNED_FOR))
        except (exceptions.BaseError, ValueError, OSError) as error:
            if not self._signing_failed:
                self._signing_failed = True
                logger.warning(
                    "%s: addresses for clients can't be signed with these credentials, so content goes through this "
                    "server; storage.redirect.disable: true says so without trying: %s",
                    self.name,
                    _reason(error),
                )
            return None

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there don't matter."""
        if not keys:
            return
        with self._asking("delete"):
            try:
                await self._objects.delete_async([self._root + key for key in keys])
            except FileNotFoundError:
                # Stores that delete one by one stop at the first that is gone.
                await in_parallel(self._delete_one, keys)

    async def _delete_one(self, key: str) -> None:
        try:
            await self._objects.delete_async(self._root + key)
        except FileNotFoundError:
            return

    async def folder(self, path: str) -> tuple[list[str], list[str]]:
        """The names of the folders and of the objects in a folder."""
        prefix = f"{self._root}{path}"
        with self._asking("list"):
            found = await self._objects.list_with_delimiter_async(prefix)
        folders = [folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"]]
        return folders, [entry["path"].rpartition("/")[2] for entry in found["objects"]]

    async def below(self, path: str) -> AsyncGenerator[list[Entry]]:
        """All objects below a folder, in the order of their keys, some at a time."""
        listing = aiter(self._objects.list(f"{self._root}{path}", chunk_size=1000))
        while True:
            with self._asking("list"):
                try:
                    entries = await anext(listing)
                except StopAsyncIteration:
                    return
            yield [
                Entry(entry["path"].removeprefix(self._root), entry["size"], entry["last_modified"].timestamp())
                for entry in entries
            ]

    @contextmanager
    def _asking(self, operation: str, *, begun: bool = False) -> Iterator[None]:
        """One request: refused while the store is away, its faults told as StorageError. FileNotFoundError passes.

        One that has `begun` goes on in any case.
        """
        if not begun and not self._breaker.lets_through():
            raise StorageError(f"{self.name} does not answer; it is asked again in a moment")
        began = time.perf_counter()
        try:
            yield
        except (FileNotFoundError, Conflict, StorageError):
            self._breaker.answered()
            raise
        except (exceptions.NotSupportedError, NotImplementedError):
            self._breaker.answered()
            raise
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            self._breaker.answered()
            raise StorageRefused(f"{self.name} refused: {_reason(error)}") from error
        except TimeoutError as error:
            self._breaker.failed()
            raise StorageError(f"{self.name} sent nothing for {STALLED_AFTER} s") from error
        except (exceptions.BaseError, OSError) as error:
            reason = _reason(error)
            if _FULL.search(reason):
                self._breaker.answered()
                raise StorageFull(f"{self.name}: {reason}") from error
            self._breaker.failed()
            raise StorageError(f"{self.name}: {reason}") from error
        else:
            self._breaker.answered()
        finally:
            if not begun:
                self._observe(operation, time.perf_counter() - began)


def _version(meta: Any) -> Version:
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def _reason(error: BaseException) -> str:
    """What obstore says of an error in one line, without the query of an address, which may be a secret."""
    said, _, debug = str(error).partition("\n\nDebug source:")
    text = _QUERY.sub("?…", " ".join(said.split()))[:600]
    cause = _CAUSE.search(debug)
    if cause is None:
        return text
    return f"{text}: {cause[2] or f'its certificate is not trusted ({cause[1]})'}"
