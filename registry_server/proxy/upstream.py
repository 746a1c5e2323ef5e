"""Another registry as the cache asks it: manifests, blobs, tags and referrers, over one aiohttp session of the worker.

What goes wrong is said in the registry's own terms:

    NotThere           404: the upstream does not have it, whatever it is
    TooManyRequests    429; nothing is asked of the upstream until its Retry-After is over
    Denied             401 or 403 that no login helps against
    Unavailable        no connection, no answer in time, a 5xx, an answer that makes no sense
"""

import json
import logging
import re
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from registry_server import __version__
from registry_server.config.proxy import HUB, Remote, Timeouts
from registry_server.metrics import Metrics
from registry_server.proxy.login import Login
from registry_server.reference import Digest, InvalidDigest
from registry_server.registry.errors import Denied, TooManyRequests, Unavailable
from registry_server.registry.lists import Page
from registry_server.registry.manifest import SUPPORTED
from registry_server.registry.manifests import MAX_SIZE

logger = logging.getLogger(__name__)

CONNECTIONS: Final = 256
"""Connections to one host that a worker has open at most; further requests wait."""
READ_AHEAD: Final = 256 << 10
"""Bytes of an answer that are received before they are asked for, about; twice that at most."""
MAX_REDIRECTS: Final = 5
MAX_LIST: Final = 16 << 20
"""Bytes of a list of tags or referrers."""
MAX_TOKEN: Final = 1 << 20
"""Bytes of a token server's answer."""
MAX_PAGES: Final = 32
"""Pages of a list of referrers that are followed."""
REST: Final = 5
"""Seconds in which an upstream that could not be reached is not asked again."""
DEFAULT_RETRY: Final = 60
"""Seconds to wait after a 429 that does not say how long (RFC 6585, 4: it may)."""
LONGEST_RETRY: Final = 6 * 3600
"""Seconds of a Retry-After that are believed at most; Docker Hub counts pulls by six hours."""
AWAY: Final = (Unavailable, TooManyRequests, Denied)
"""What keeps an upstream from being asked, rather than being its answer."""

_MANIFESTS: Final = ", ".join(SUPPORTED)
_REFERRERS: Final = "application/vnd.oci.image.index.v1+json"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


class NotThere(Exception):
    """The upstream answered that it does not have what it was asked for."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's content as an upstream begins to send it."""

    start: int
    """The first byte that comes."""
    size: int | None
    """Bytes of the whole blob, if the upstream said so."""
    content: aiohttp.StreamReader


class Sessions:
    """The worker's one session, opened when it is first used."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def get(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"regatta/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=READ_AHEAD,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class Upstream:
    """One upstream. Repository names are its own, `library/alpine`."""

    def __init__(
        self,
        settings: Remote,
        timeouts: Timeouts,
        sessions: Sessions,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = settings.host
        base = URL(settings.remoteurl, encoded=True)
        self._base = base.with_host("registry-1.docker.io") if settings.host in HUB else base
        self._is_hub = settings.host in HUB
        self._sessions = sessions
        self._metrics = metrics
        self._briefly = _timeout(timeouts, timeouts.total.total_seconds())
        self._at_length = _timeout(timeouts, None)
        self._clock = clock
        self._login = Login(settings, self._token_server, clock)
        self._tls = ssl.create_default_context(cafile=settings.ca) if settings.ca else ssl.create_default_context()
        self._rests_until = 0.0
        self._reason: type[Unavailable | TooManyRequests] = Unavailable

    def __str__(self) -> str:
        return self.host

    def name_of(self, repository: str) -> str:
        """The name of a repository there: Docker Hub's official images have theirs below `library/`."""
        return f"library/{repository}" if self._is_hub and "/" not in repository else repository

    def count(self, received: int) -> None:
        """Count bytes that it sent."""
        self._metrics.proxy_bytes(self.host, received)

    def sent_wrong(self, wanted: Digest | str) -> None:
        """Note that it sent something else than it should have."""
        self._metrics.proxy_error(self.host, "digest")
        logger.error("%s sent other content than %s", self, wanted)

    async def find_manifest(self, repository: str, tag: str) -> Digest | None:
        """The digest a tag points to, by HEAD, which Docker Hub does not count; None if the upstream does not tell it.

        Raises NotThere and what `AWAY` lists, as all below.
        """
        url = self._url(repository, f"manifests/{tag}")
        async with self._answer("HEAD", url, repository, {"Accept": _MANIFESTS}) as answer:
            return _told_digest(answer)

    async def manifest(self, repository: str, reference: str | Digest) -> tuple[Digest, bytes]:
        """A manifest by tag or digest, its digest verified."""
        url = self._url(repository, f"manifests/{reference}")
        async with self._answer("GET", url, repository, {"Accept": _MANIFESTS}) as answer:
            content = await self._read(answer, MAX_SIZE)
            digest = reference if isinstance(reference, Digest) else _told_digest(answer)
        found = Digest.of(content, digest.algorithm) if digest else Digest.of(content)
        if digest not in (None, found):
            self.sent_wrong(reference)
            raise Unavailable(f"{self} sent another manifest than {digest}; it is not kept")
        return found, content

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Bytes of a blob; None if the upstream has it and does not tell its size."""
        async with self._answer("HEAD", self._url(repository, f"blobs/{digest}"), repository, {}) as answer:
            return answer.content_length

    @asynccontextmanager
    async def blob(self, repository: str, digest: Digest, start: int = 0) -> AsyncIterator[Blob]:
        """The content of a blob from a byte on, or from its beginning where the upstream has no ranges."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = self._url(repository, f"blobs/{digest}")
        async with self._answer("GET", url, repository, headers, self._at_length) as answer:
            if answer.status == 206:
                begins, size = _content_range(answer.headers.get("Content-Range", ""))
                if begins != start:
                    raise Unavailable(f"{self} sent another part of {digest} than it was asked for")
                yield Blob(begins, size, answer.content)
            else:
                yield Blob(0, answer.content_length, answer.content)

    async def tags(self, repository: str, *, count: int, after: str) -> Page:
        """At most `count` tags after another, in the upstream's order."""
        query = {"n": str(count)} | ({"last": after} if after else {})
        url = self._url(repository, "tags/list").with_query(query)
        document, following = await self._list(url, repository)
        tags = document.get("tags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise Unavailable(f"{self} sent a list of tags that is none")
        return Page(tags[:count], more=count > 0 and (following is not None or len(tags) > count))

    async def referrers(self, repository: str, subject: Digest) -> list[dict[str, Any]]:
        """The descriptors of what refers to a manifest: by the API, else by the tag that clients keep without it."""
        descriptors: list[dict[str, Any]] = []
        following: URL | None = self._url(repository, f"referrers/{subject}")
        pages = 0
        try:
            while following is not None and pages < MAX_PAGES:
                document, following = await self._list(following, repository)
                descriptors += _descriptors(document)
                pages += 1
        except NotThere:
            return await self._referrers_by_tag(repository, subject)
        return descriptors

    async def _referrers_by_tag(self, repository: str, subject: Digest) -> list[dict[str, Any]]:
        try:
            _, content = await self.manifest(repository, f"{subject.algorithm}-{subject.hex}")
            return _descriptors(_json(content))
        except (NotThere, ValueError):
            return []

    async def _list(self, url: URL, repository: str) -> tuple[dict[str, Any], URL | None]:
        """A document and where it goes on, within the upstream."""
        async with self._answer("GET", url, repository, {"Accept": f"application/json, {_REFERRERS}"}) as answer:
            document = _json(await self._read(answer, MAX_LIST))
            links = answer.links
        if not isinstance(document, dict):
            raise Unavailable(f"{self} sent a list that is none")
        following = links["next"].get("url") if "next" in links else None
        return document, following if isinstance(following, URL) and following.origin() == self._base.origin() else None

    def _url(self, repository: str, rest: str) -> URL:
        path = f"{self._base.raw_path.rstrip('/')}/v2/{self.name_of(repository)}/{quote(rest, safe='/:')}"
        return self._base.with_path(path, encoded=True)

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        url: URL,
        repository: str,
        headers: Mapping[str, str],
        within: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is neither an error nor a redirect, after logging in as the upstream asks for.

        What breaks while its body is read is raised in the registry's terms, too.
        """
        if self._clock() < self._rests_until:
            raise self._resting()
        name = self.name_of(repository)
        answer = await self._logged_in(method, url, name, headers, within or self._briefly)
        try:
            self._judge(answer, name)
            with self._in_our_terms("cut"):
                yield answer
        finally:
            answer.release()  # which closes the connection when more of the body is to come

    async def _logged_in(
        self, method: str, url: URL, name: str, headers: Mapping[str, str], within: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        for last in (False, True):
            login = await self._login.header(name)
            answer = await self._follow(method, url, headers, login, within)
            if last or answer.status != 401:
                break
            answer.release()
            if not await self._login.learn(answer.headers.getall("WWW-Authenticate", []), name, refused=login):
                break
        return answer

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], login: str | None, within: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Ask, and follow redirects: to blobs on other hosts, which get no login."""
        for _ in range(MAX_REDIRECTS + 1):
            own = url.origin() == self._base.origin()
            sent = {**headers, "Authorization": login} if login and own else headers
            # Another host is where it keeps its blobs: if that is away, manifests may still be had.
            answer = await self._send(method, url, sent, within, rests=own)
            if answer.status not in _REDIRECTS:
                return answer
            answer.release()
            url = self._redirected(url, answer.headers.get("Location", ""))
        raise Unavailable(f"{self} redirects without an end")

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location, encoded=True))
        except ValueError:
            target = URL()
        if not target.host or target.scheme not in ("https", self._base.scheme):
            raise Unavailable(f"{self} redirects to a place that is not safe to follow")
        return target

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], within: aiohttp.ClientTimeout, *, rests: bool
    ) -> aiohttp.ClientResponse:
        with self._in_our_terms("unreachable", rests=rests):
            return await self._sessions.get().request(
                method,
                url,
                headers=headers,
                allow_redirects=False,
                timeout=within,
                ssl=self._tls,
                proxy=_proxy_for(url),
            )

    async def _token_server(self, url: URL, headers: Mapping[str, str]) -> object:
        """What a token server answers. It is not followed elsewhere: the request holds a login."""
        answer = await self._send("GET", url, headers, self._briefly, rests=True)
        try:
            if answer.status in (400, 404):
                raise self._refused("the token server", answer.status)
            self._judge(answer, "a token")
            with self._in_our_terms("cut"):
                return _json(await self._read(answer, MAX_TOKEN))
        finally:
            answer.release()

    def _judge(self, answer: aiohttp.ClientResponse, what: str) -> None:
        """Raises what an answer that is an error means."""
        status = answer.status
        if status in (200, 206):
            return
        if status == 404:
            raise NotThere
        if status in (401, 403):
            raise self._refused(what, status)
        if status == 429:
            self._metrics.proxy_error(self.host, "limited")
            self._rest(TooManyRequests, _retry_after(answer.headers.get("Retry-After"), self._clock()))
            raise self._resting()
        self._metrics.proxy_error(self.host, "failed")
        logger.warning("%s answered with status %d for %s", self, status, what)
        raise Unavailable(f"{self} answered with status {status}", retry_after=REST)

    def _refused(self, what: str, status: int) -> Denied:
        self._metrics.proxy_error(self.host, "refused")
        logger.warning("%s refuses %s with status %d; check the login for it", self, what, status)
        return Denied(f"{self} refuses {what} to this cache")

    @contextmanager
    def _in_our_terms(self, reason: str, *, rests: bool = False) -> Iterator[None]:
        """Says what aiohttp raises in the registry's terms. An upstream that gives no answer gets some rest."""
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._metrics.proxy_error(self.host, reason)
            # Some of its errors say the whole URL, in which a redirect may have put a signature.
            said = "" if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL) else str(error)
            logger.warning("%s: %s: %s", self, reason, said or type(error).__name__)
            if rests:
                self._rest(Unavailable, REST)
            what = "broke off its answer" if reason == "cut" else "can't be reached"
            raise Unavailable(f"{self} {what}", retry_after=REST) from error

    def _rest(self, reason: type[Unavailable | TooManyRequests], seconds: float) -> None:
        self._reason, self._rests_until = reason, self._clock() + seconds

    def _resting(self) -> Unavailable | TooManyRequests:
        what = "wants no more requests for now" if self._reason is TooManyRequests else "can't be reached"
        return self._reason(f"{self} {what}", retry_after=max(self._rests_until - self._clock(), 1))

    async def _read(self, answer: aiohttp.ClientResponse, limit: int) -> bytes:
        content = bytearray()
        async for piece in answer.content.iter_any():
            content += piece
            if len(content) > limit:
                raise Unavailable(f"{self} sent more than the {limit} bytes that this may have")
        self.count(len(content))
        return bytes(content)


def _timeout(timeouts: Timeouts, total: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total, sock_connect=timeouts.connect.total_seconds(), sock_read=timeouts.idle.total_seconds()
    )


def _proxy_for(url: URL) -> str | None:
    """The HTTP proxy that the environment has for a URL. aiohttp's `trust_env` would read logins from ~/.netrc, too."""
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)


def _told_digest(answer: aiohttp.ClientResponse) -> Digest | None:
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidDigest:
        return None


def _content_range(header: str) -> tuple[int, int | None]:
    """The first byte and the size of the whole, of `Content-Range`; -1 for one that can't be read."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _retry_after(header: str | None, now: float) -> float:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date)."""
    seconds: float = DEFAULT_RETRY
    if header is not None and _SECONDS.fullmatch(header.strip()):
        seconds = int(header)
    elif header is not None:
        with suppress(ValueError):
            seconds = parsedate_to_datetime(header).timestamp() - now
    return min(max(seconds, 1), LONGEST_RETRY)


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def _descriptors(document: object) -> list[dict[str, Any]]:
    manifests = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(manifests, list):
        return []
    return [one for one in manifests if isinstance(one, dict) and isinstance(one.get("digest"), str)]
