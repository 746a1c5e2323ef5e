"""The application: every request's way from the engine through login and permission to its handler, and back.

engine ─► App ─► route ─► authenticate ─► authorize ─► handler ─► response, counted and logged
"""

import asyncio
import itertools
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from registry_server.health import ServerHealth
from registry_server.http.engine import Exchange, Scope, StreamBroken, stream
from registry_server.http.errors import error_response
from registry_server.http.handlers import JSON, Handler
from registry_server.http.jobs import JobsPage
from registry_server.http.message import File, Headers, Request, Response, Stream
from registry_server.http.reporter import Reporter
from registry_server.http.routes import METHODS, Resource, Target, find
from registry_server.http.security import Security
from registry_server.http.token import TokenEndpoint
from registry_server.log import AccessLog
from registry_server.metrics import CONTENT_TYPE, Metrics
from registry_server.reference import is_repository
from registry_server.registry.errors import NameUnknown, Unauthorized
from registry_server.storage.contract import StorageError

logger = logging.getLogger(__name__)

API_VERSION: Final = ("docker-distribution-api-version", "registry/2.0")
CLOSE: Final = ("connection", "close")
DRAINED: Final = 16 << 20
"""Bytes of a refused request's body that are taken before the answer; whoever sends more may miss it."""
NOT_FOUND: Final = b'{"errors":[{"code":"NOT_FOUND","message":"there is nothing at this path; the API is below /v2/"}]}'

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(slots=True)
class App:
    """The API port's application."""

    handlers: dict[tuple[Resource, str], Handler]
    security: Security
    token: TokenEndpoint
    metrics: Metrics
    access_log: AccessLog | None
    health: ServerHealth
    headers: Headers = field(default_factory=list)
    """Added to every response (`http.headers`)."""
    prefix: str = ""
    """What paths begin with before `/v2/` (`http.prefix`), without its last slash."""
    leaving: bool = False
    """Whether the server is about to stop, so that every connection ends with its next response."""
    namespaces: Mapping[str, str] = field(default_factory=dict)
    """Of a pull-through cache: where repositories are that clients ask for with another registry's name (`ns`)."""
    reporter: Reporter | None = None
    """Tells notifications what requests did, where there are any."""
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _id_prefix: str = field(default_factory=lambda: secrets.token_hex(6))

    async def __call__(self, scope: Scope, protocol: Exchange, closing: bool) -> None:
        """Answer one request, and ask for its connection to be closed if it is `closing`."""
        began = time.perf_counter()
        self.metrics.in_flight += 1
        self.metrics.changed = True
        body = _Body(protocol)
        request = Request(scope.method, scope.path, scope.query_string, scope.headers, scope.client, body)
        try:
            target, response = await self._respond(request, scope)
        except asyncio.CancelledError:
            # The time to drain is over. What an upload has brought so far is kept.
            logger.warning("%s %s was cut off", request.method, request.path)
            return
        if response.status >= 400 and request.method in _WITH_BODY and request.headers.get("expect") is None:
            await body.drain()
        request_id = request.id or self._request_id(request)
        further = [API_VERSION, ("x-request-id", request_id), *self.headers]
        if (closing or self.leaving) and scope.http_version == "1.1":
            further.append(CLOSE)
        response.headers += further
        if isinstance(response.body, Stream):
            response, sent = await self._stream(protocol, response, response.body, request, further)
        else:
            send(protocol, response, head=request.method == "HEAD")
            sent = 0 if request.method == "HEAD" else response.length
        seconds = time.perf_counter() - began
        self.metrics.in_flight -= 1
        route = "unknown" if target is None else target.resource
        if target is not None:
            self._count(request, target, response)
        received = body.received
        method = request.method if request.method in _METHODS else "OTHER"
        self.metrics.request(route, method, response.status, seconds, received, sent)
        if self.access_log is not None:
            self.access_log.write(
                {
                    "id": request_id,
                    "remote": request.client,
                    "user": request.user or "-",
                    "method": request.method,
                    "path": request.path,
                    "status": response.status,
                    "bytes": sent,
                    "received": received,
                    "duration_ms": round(seconds * 1000, 3),
                    "agent": request.headers.get("user-agent") or "-",
                }
            )

    async def _respond(self, request: Request, scope: Scope) -> tuple[Target | None, Response]:
        target: Target | None = None
        try:
            target = self._find(request.path)
            if target is None:
                return None, Response(404, [JSON], NOT_FOUND)
            methods = METHODS[target.resource]
            if request.method not in methods:
                return target, _method_not_allowed(methods)
            namespace = request.query.get("ns") if self.namespaces and target.repository else None
            if namespace is not None:
                target = self._within(namespace, target)
            if target.resource in ("healthz", "readyz"):
                return target, health_response(target.resource, self.health)
            if target.resource == "token":
                return target, await self.token.answer(request)
            login = await self.security.authenticate(request)
            self.security.authorize(login, request, target)
            method = (
                "GET" if request.method == "HEAD" and (target.resource, "HEAD") not in self.handlers else request.method
            )
            handler = self.handlers[target.resource, method]
            visible = self.security.visible(login, target)
            if self.reporter is None:
                response = await handler(request, target, visible)
            else:
                request.id = self._request_id(request)
                response = await self.reporter.answer(handler, request, target, visible, scope)
            if namespace is not None:
                response.headers.append(("oci-namespace", namespace))
        except Unauthorized as error:
            response = error_response(error)
            response.headers.append(("www-authenticate", self.security.challenge(request, target, scope, error)))
            return target, response
        except Exception as error:  # noqa: BLE001  (a client always gets an answer, and the log the reason)
            return target, error_response(error)
        return target, response

    async def _stream(
        self, protocol: Exchange, response: Response, body: Stream, request: Request, further: Headers
    ) -> tuple[Response, int]:
        """Send a response that comes in pieces; returns it, or the one that took its place, and the bytes sent."""
        if request.method == "HEAD":
            await body.pieces.aclose()
            send(protocol, response, head=True)
            return response, 0
        try:
            await stream(protocol, response.status, response.headers, body.pieces, body.length)
        except StreamBroken as error:
            logger.warning("%s %s broke off after %d bytes: %s", request.method, request.path, error.sent, error)
            return response, error.sent
        except asyncio.CancelledError:
            logger.warning("%s %s was cut off", request.method, request.path)
            return response, 0
        except Exception as error:  # noqa: BLE001  (nothing was sent yet)
            response = error_response(error)
            response.headers += further
            send(protocol, response, head=False)
        return response, response.length

    def _find(self, path: str) -> Target | None:
        if self.prefix:
            if not path.startswith(self.prefix) and path not in ("/healthz", "/readyz"):
                return None
            path = path.removeprefix(self.prefix)
        return find(path)

    def _within(self, namespace: str, target: Target) -> Target:
        """Where a repository of another registry's is here. Raises NameUnknown rather than take it for one of ours.

        containerd names the registry so when it asks a mirror of it. Who may pull is decided by the name here.
        """
        prefix = self.namespaces.get(namespace)
        repository = f"{prefix}/{target.repository}" if prefix else target.repository
        if prefix is None or not is_repository(repository):
            raise NameUnknown("this registry is no cache of that one", {"ns": namespace[:300]})
        return replace(target, repository=repository)

    def _count(self, request: Request, target: Target, response: Response) -> None:
        if target.resource == "manifest" and response.status < 300:
            if request.method == "GET":
                self.metrics.repository(target.repository, "pull")
            elif request.method == "PUT":
                self.metrics.repository(target.repository, "push")
        elif target.resource in ("uploads", "upload"):
            event = _UPLOAD_EVENTS.get((request.method, response.status))
            if event is not None:
                self.metrics.upload(event)

    def _request_id(self, request: Request) -> str:
        """The client's own, if it sent a sane one, else one of ours."""
        given = request.headers.get("x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._id_prefix}-{next(self._ids)}"


@dataclass(frozen=True, slots=True)
class DebugApp:
    """The application of the debug port: health, metrics and how jobs went, without a login."""

    health: ServerHealth
    metrics: Metrics
    metrics_path: str | None
    jobs: JobsPage

    async def __call__(self, scope: Scope, protocol: Exchange, closing: bool) -> None:
        """Answer one request."""
        send(protocol, await self._respond(scope.method, scope.path), head=scope.method == "HEAD")

    async def _respond(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD"):
            return _method_not_allowed(("GET", "HEAD"))
        if path == self.metrics_path:
            return Response(200, [("content-type", CONTENT_TYPE)], self.metrics.exposition())
        if path in ("/healthz", "/readyz"):
            return health_response(path[1:], self.health)
        if path == "/jobs":
            try:
                return Response(200, [JSON, ("cache-control", "no-store")], await self.jobs.content())
            except StorageError as error:
                return error_response(error)
        return Response(404, [("content-type", "text/plain")], b"here are /healthz, /readyz, /jobs and the metrics\n")


def health_response(resource: str, health: ServerHealth) -> Response:
    """`healthz`: the process answers. `readyz`: whatever is checked is well, too, above all the storage."""
    errors = health.errors if resource == "readyz" else {}
    body = {"status": "unavailable", **errors} if errors else {"status": "ok"}
    return Response(503 if errors else 200, [JSON, ("cache-control", "no-store")], json.dumps(body).encode())


def send(protocol: Exchange, response: Response, *, head: bool) -> None:
    """Hand a response to the engine, whole."""
    body = response.body
    if head or body is None or isinstance(body, Stream):
        if head and body is not None:
            response.headers.append(("content-length", str(response.length)))
        protocol.response_empty(response.status, response.headers)
    elif isinstance(body, File):
        response.headers.append(("content-length", str(body.end - body.start)))
        protocol.response_file_range(response.status, response.headers, body.path, body.start, body.end)
    else:
        if not body:
            response.headers.append(("content-length", "0"))  # which the engine leaves out over HTTP/2
        protocol.response_bytes(response.status, response.headers, body)


class _Body:
    """A request's body, its bytes counted. The engine lets it be iterated once; here one may stop and go on."""

    __slots__ = ("_ended", "_pieces", "_protocol", "received")

    def __init__(self, protocol: Exchange) -> None:
        self._protocol = protocol
        self._pieces: AsyncIterator[bytes] | None = None
        self._ended = False
        self.received = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._pieces is None:
            self._pieces = aiter(self._protocol)
        piece = b""
        while not piece:
            try:
                piece = await anext(self._pieces)  # no default for its end: Granian's awaitables crash in its wrapper
            except StopAsyncIteration:
                self._ended = True
                raise
        self.received += len(piece)
        return piece

    async def drain(self) -> None:
        """Take what a refused client is still sending: closed too early, its connection would lose it the answer."""
        limit = self.received + DRAINED
        async for _ in self:
            if self.received > limit:
                return


_WITH_BODY: Final = frozenset({"PUT", "POST", "PATCH"})
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
_UPLOAD_EVENTS: Final = {
    ("POST", 202): "started",
    ("POST", 201): "finished",
    ("PUT", 201): "finished",
    ("PUT", 400): "failed",
    ("DELETE", 204): "cancelled",
}


def _method_not_allowed(methods: Iterable[str]) -> Response:
    body = b'{"errors":[{"code":"UNSUPPORTED","message":"the method is not allowed here"}]}'
    return Response(405, [JSON, ("allow", ", ".join(methods))], body)
