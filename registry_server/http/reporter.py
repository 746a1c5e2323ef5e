"""What a request did, as the event that notifications tell of it: only where the configuration has endpoints.

Which request makes which events is as in distribution (`notifications/listener.go`): also HEAD is a pull.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from registry_server.config import EventAction
from registry_server.http.engine import Scope
from registry_server.http.handlers import Handler
from registry_server.http.message import Request, Response
from registry_server.http.origin import claimed_address, external
from registry_server.http.routes import Resource, Target
from registry_server.notifications import Recorder, Source
from registry_server.notifications.events import OCTETS, Cause, Kind, descriptor, event, references
from registry_server.reference import Digest, is_tag
from registry_server.registry import Registry
from registry_server.registry.errors import RegistryError
from registry_server.registry.uploads import Visible
from registry_server.storage.contract import StorageError

_REPORTED: Final[dict[tuple[Resource, str], EventAction]] = {
    ("manifest", "GET"): "pull",
    ("manifest", "HEAD"): "pull",
    ("manifest", "PUT"): "push",
    ("manifest", "DELETE"): "delete",
    ("blob", "GET"): "pull",
    ("blob", "HEAD"): "pull",
    ("blob", "DELETE"): "delete",
    ("uploads", "POST"): "push",
    ("upload", "PUT"): "push",
}
_DONE: Final[dict[EventAction, tuple[int, ...]]] = {"pull": (200, 206, 307), "push": (201,), "delete": (202,)}
"""How requests end that make an event; 307 leads to content at the object store."""

logger = logging.getLogger(__name__)

_Event = tuple[Kind, EventAction, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reporter:
    """Answers requests by their handlers and reports what came of them."""

    registry: Registry
    recorder: Recorder
    source: Source
    base_url: str
    prefix: str
    with_references: bool

    async def answer(
        self, handler: Handler, request: Request, target: Target, visible: Visible, scope: Scope
    ) -> Response:
        """What the handler answers, once the event of it is written down."""
        action = _REPORTED.get((target.resource, request.method))
        if action is None:
            return await handler(request, target, visible)
        # Afterwards nobody could tell any more.
        tags = await self._tags_that_go(target) if (target.resource, action) == ("manifest", "delete") else ()
        response = await handler(request, target, visible)
        if response.status in _DONE[action]:
            base_url, host = external(self.base_url, request, scope)
            content_url = f"{base_url}{self.prefix}/v2/{target.repository}"
            try:
                if action == "delete":
                    events = _deletions(target, tags)
                elif target.resource == "manifest":
                    events = await self._manifest(action, request, target, response, content_url)
                else:
                    events = [await self._blob(action, target, response, content_url)]
            except (RegistryError, StorageError) as error:
                # What was pushed is there, or was until somebody deleted it at this moment; the client shall know.
                logger.warning("the event of %s %s can't be told: %s", request.method, request.path, error)
            else:
                await self._record(events, _cause(request, host))
        return response

    async def _record(self, events: Iterable[_Event], cause: Cause) -> None:
        lines = [
            event(kind, action, target, cause, self.source)
            for kind, action, target in events
            if self.recorder.wants(action, target["mediaType"])
        ]
        if not lines:
            return
        if cause.method in ("GET", "HEAD"):
            self.recorder.note(lines[0])
        else:
            await self.recorder.record(*lines)

    async def _manifest(
        self, action: EventAction, request: Request, target: Target, response: Response, url: str
    ) -> list[_Event]:
        digest = _header(response, "docker-content-digest")
        content = response.body if isinstance(response.body, bytes) else None
        media_type, size = _header(response, "content-type"), _header(response, "content-length")
        if content is None and (action == "push" or self.with_references):
            manifest = await self.registry.manifests.by_digest(target.repository, Digest.parse(digest))
            content, media_type = manifest.content, manifest.media_type
        about = descriptor(media_type, digest, int(size) if content is None else len(content))
        about |= {"length": about["size"], "repository": target.repository, "url": f"{url}/manifests/{digest}"}
        if self.with_references and content is not None:
            about["references"] = references(content)
        tags = [target.reference] if is_tag(target.reference) else request.query_all("tag") if action == "push" else []
        if not tags:
            return [("manifest", action, about)]
        return [("manifest", action, {**about, "tag": tag}) for tag in tags]

    async def _blob(self, action: EventAction, target: Target, response: Response, url: str) -> _Event:
        digest = _header(response, "docker-content-digest") or target.reference
        size = _size(response) if action == "pull" else None
        if size is None:
            size = (await self.registry.blobs.find(target.repository, Digest.parse(digest))).size
        about = descriptor(OCTETS, digest, size)
        about |= {"length": size, "repository": target.repository, "url": f"{url}/blobs/{digest}"}
        if response.mounted_from is None:
            return "blob", action, about
        return "blob", "mount", {**about, "fromRepository": response.mounted_from}

    async def _tags_that_go(self, target: Target) -> Sequence[str]:
        if is_tag(target.reference) or not self.recorder.wants("delete", ""):
            return ()
        return await self.registry.manifests.tags_of(target.repository, target.reference)


def _deletions(target: Target, tags: Sequence[str]) -> list[_Event]:
    """What was deleted, with the tags that went with it."""
    if target.resource == "manifest" and is_tag(target.reference):
        return [_deletion("tag", target.repository, tag=target.reference)]
    kind: Kind = "manifest" if target.resource == "manifest" else "blob"
    removed = _deletion(kind, target.repository, digest=target.reference)
    return [removed, *(_deletion("tag", target.repository, tag=tag) for tag in tags)]


def _deletion(kind: Kind, repository: str, *, digest: str = "", tag: str = "") -> _Event:
    about = descriptor("", digest, 0) | {"repository": repository}
    return kind, "delete", {**about, "tag": tag} if tag else about


def _cause(request: Request, host: str) -> Cause:
    return Cause(
        id=request.id,
        addr=claimed_address(request),
        host=host,
        method=request.method,
        agent=request.headers.get("user-agent") or "",
        user=request.user,
    )


def _header(response: Response, name: str) -> str:
    return next((value for known, value in response.headers if known == name), "")


def _size(response: Response) -> int | None:
    """Bytes of the whole blob that a response holds or tells of; None where it leads elsewhere."""
    if response.status == 206:
        return int(_header(response, "content-range").rpartition("/")[2])
    if response.status != 200:
        return None
    return response.length if response.body is not None else int(_header(response, "content-length"))
