"""What each resource of the API answers. Whoever asks may do so: that was decided before."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from registry_server.http.errors import error_response
from registry_server.http.message import File, Headers, Request, Response, Stream
from registry_server.http.routes import Resource, Target
from registry_server.reference import ALGORITHMS, CANONICAL, Digest, InvalidDigest, is_repository, is_tag
from registry_server.registry import Registry
from registry_server.registry.errors import (
    BlobUploadInvalid,
    DigestInvalid,
    ManifestInvalid,
    ManifestTooLarge,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    Unsupported,
)
from registry_server.registry.lists import Page
from registry_server.registry.manifest import OCI_INDEX, Manifest
from registry_server.registry.manifests import MAX_SIZE
from registry_server.registry.quotas import usage_document
from registry_server.registry.uploads import Chunk, Visible
from registry_server.storage.contract import StoredBlob

Handler = Callable[[Request, Target, Visible], Awaitable[Response]]

JSON: Final = ("content-type", "application/json")
IMMUTABLE: Final = ("cache-control", "max-age=31536000")

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?", re.ASCII)
_BYTE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Handlers:
    """The API over a registry."""

    registry: Registry
    base_url: str = ""
    """What `Location` headers begin with: empty for relative ones, which survive every proxy (distribution #479)."""
    delete_enabled: bool = True
    read_only: bool = False

    def table(self) -> dict[tuple[Resource, str], Handler]:
        """The handler of each resource and method."""
        return {
            ("base", "GET"): self.base,
            ("catalog", "GET"): self.catalog,
            ("tags", "GET"): self.tags,
            ("manifest", "GET"): self.get_manifest,
            ("manifest", "HEAD"): self.head_manifest,
            ("manifest", "PUT"): self.writing(self.put_manifest),
            ("manifest", "DELETE"): self.deleting(self.delete_manifest),
            ("blob", "GET"): self.get_blob,
            ("blob", "HEAD"): self.head_blob,
            ("blob", "DELETE"): self.deleting(self.delete_blob),
            ("uploads", "POST"): self.writing(self.start_upload),
            ("upload", "GET"): self.upload_status,
            ("upload", "PATCH"): self.writing(self.append_upload),
            ("upload", "PUT"): self.writing(self.finish_upload),
            ("upload", "DELETE"): self.writing(self.cancel_upload),
            ("referrers", "GET"): self.referrers,
            ("usage", "GET"): self.usage,
            ("usages", "GET"): self.usages,
        }

    def writing(self, handler: Handler) -> Handler:
        return _refuse("the registry is read-only for maintenance") if self.read_only else handler

    def deleting(self, handler: Handler) -> Handler:
        if not self.delete_enabled:
            return _refuse("deletion is switched off; set storage.delete.enabled: true")
        return self.writing(handler)

    async def base(self, request: Request, target: Target, visible: Visible) -> Response:
        return Response(200, [JSON], b"{}")

    async def catalog(self, request: Request, target: Target, visible: Visible) -> Response:
        count, after = _page_wanted(request)
        page = await self.registry.lists.repositories(count=count, after=after, visible=visible)
        return self._list("repositories", page, f"{self.base_url}/v2/_catalog", count, {})

    async def tags(self, request: Request, target: Target, visible: Visible) -> Response:
        count, after = _page_wanted(request)
        page = await self.registry.lists.tags(target.repository, count=count, after=after)
        path = f"{self.base_url}/v2/{target.repository}/tags/list"
        return self._list("tags", page, path, count, {"name": target.repository})

    async def get_manifest(self, request: Request, target: Target, visible: Visible) -> Response:
        digest, manifest = await self._manifest(target)
        headers = _manifest_headers(digest, manifest)
        if _not_modified(request, digest):
            return Response(304, headers)
        return Response(200, headers, manifest.content)

    async def head_manifest(self, request: Request, target: Target, visible: Visible) -> Response:
        digest, manifest = await self._manifest(target)
        return Response(200, [*_manifest_headers(digest, manifest), ("content-length", str(len(manifest.content)))])

    async def put_manifest(self, request: Request, target: Target, visible: Visible) -> Response:
        content = await _read_manifest(request)
        query = request.query
        if is_tag(target.reference):
            digest = Digest.of(content, _algorithm(query.get("digest-algorithm")))
            tags = [target.reference]
        else:
            digest = _digest(target.reference)
            tags = request.query_all("tag")
        for tag in tags:
            if not is_tag(tag):
                raise TagInvalid(detail={"tag": tag[:200]})
        media_type = (request.headers.get("content-type") or "").partition(";")[0].strip()
        manifest = Manifest.pushed(content, media_type or None)
        await self.registry.manifests.put(target.repository, manifest, digest, tags=tags)
        headers = [
            ("location", f"{self.base_url}/v2/{target.repository}/manifests/{digest}"),
            ("docker-content-digest", str(digest)),
            *(("oci-tag", tag) for tag in tags if target.reference != tag),
        ]
        if manifest.subject is not None:
            headers.append(("oci-subject", str(manifest.subject)))
        return Response(201, headers)

    async def delete_manifest(self, request: Request, target: Target, visible: Visible) -> Response:
        if is_tag(target.reference):
            await self.registry.manifests.untag(target.repository, target.reference)
        else:
            await self.registry.manifests.delete(target.repository, _digest(target.reference))
        return Response(202)

    async def get_blob(self, request: Request, target: Target, visible: Visible) -> Response:
        digest = _digest(target.reference)
        blob = await self.registry.blobs.find(target.repository, digest)
        headers = _blob_headers(digest)
        if _not_modified(request, digest):
            return Response(304, headers)
        if blob.path is None and (url := await self.registry.blobs.url(blob)) is not None:
            return Response.redirect(url, [("docker-content-digest", str(digest)), ("cache-control", "no-store")])
        try:
            wanted = _wanted_range(request, digest, blob.size)
        except RangeInvalid as error:
            response = error_response(error)
            response.headers.append(("content-range", f"bytes */{blob.size}"))
            return response
        if wanted is None:
            return Response(200, headers, self._part(blob, 0, blob.size) if blob.size else b"")
        start, end = wanted
        headers.append(("content-range", f"bytes {start}-{end - 1}/{blob.size}"))
        return Response(206, headers, self._part(blob, start, end))

    async def head_blob(self, request: Request, target: Target, visible: Visible) -> Response:
        digest = _digest(target.reference)
        size = await self.registry.blobs.size(target.repository, digest)
        return Response(200, [*_blob_headers(digest), ("content-length", str(size))])

    async def delete_blob(self, request: Request, target: Target, visible: Visible) -> Response:
        await self.registry.blobs.delete(target.repository, _digest(target.reference))
        return Response(202)

    async def start_upload(self, request: Request, target: Target, visible: Visible) -> Response:
        query = request.query
        source = await self._mount(target.repository, query, visible) if "mount" in query else None
        if source is not None:
            response = self._created_blob(target.repository, Digest.parse(query["mount"]))
            response.mounted_from = source
            return response
        digest = _digest(query["digest"]) if "digest" in query else None
        upload_id = await self.registry.uploads.start(target.repository)
        if digest is None:
            return self._upload(202, target.repository, upload_id, 0)
        try:
            await self.registry.uploads.finish(target.repository, upload_id, _chunk(request), digest)
        except (BlobUploadInvalid, RangeInvalid, SizeInvalid):
            await self.registry.uploads.cancel(target.repository, upload_id)  # the client never learnt its id
            raise
        return self._created_blob(target.repository, digest)

    async def upload_status(self, request: Request, target: Target, visible: Visible) -> Response:
        offset = await self.registry.uploads.offset(target.repository, target.reference)
        return self._upload(204, target.repository, target.reference, offset)

    async def append_upload(self, request: Request, target: Target, visible: Visible) -> Response:
        try:
            offset = await self.registry.uploads.append(target.repository, target.reference, _chunk(request))
        except RangeInvalid as error:
            return self._out_of_step(target, error)
        return self._upload(202, target.repository, target.reference, offset)

    async def finish_upload(self, request: Request, target: Target, visible: Visible) -> Response:
        digest = _digest(request.query.get("digest", ""))
        try:
            await self.registry.uploads.finish(target.repository, target.reference, _chunk(request), digest)
        except RangeInvalid as error:
            return self._out_of_step(target, error)
        return self._created_blob(target.repository, digest)

    async def cancel_upload(self, request: Request, target: Target, visible: Visible) -> Response:
        await self.registry.uploads.cancel(target.repository, target.reference)
        return Response(204)

    async def referrers(self, request: Request, target: Target, visible: Visible) -> Response:
        artifact_type = request.query.get("artifactType")
        subject = _digest(target.reference)
        manifests = await self.registry.referrers.of(target.repository, subject, artifact_type=artifact_type)
        headers: Headers = [("content-type", OCI_INDEX)]
        if artifact_type is not None:
            headers.append(("oci-filters-applied", "artifactType"))
        return Response(200, headers, _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))

    async def usage(self, request: Request, target: Target, visible: Visible) -> Response:
        """What a repository takes, and how it stands with its quotas: an extension, as the specification allows."""
        used = await self.registry.lists.usage(target.repository)
        standings = await self.registry.quotas.standings(target.repository, used)
        return Response(200, [JSON], _json(usage_document(target.repository, used, standings)))

    async def usages(self, request: Request, target: Target, visible: Visible) -> Response:
        """What each repository takes that the asker may pull from, a page at a time."""
        count, after = _page_wanted(request)
        page = await self.registry.lists.repositories(count=count, after=after, visible=visible)
        found = await self.registry.lists.usages(page.entries)
        entries = [usage_document(name, used) for name, used in zip(page.entries, found, strict=True)]
        headers = self._list_headers(page, f"{self.base_url}/v2/_regatta/usage", count)
        return Response(200, headers, _json({"repositories": entries}))

    def _part(self, blob: StoredBlob, start: int, end: int) -> File | Stream:
        if blob.path is not None:
            return File(blob.path, start, end)
        return Stream(self.registry.blobs.read(blob, start, end), end - start)

    async def _manifest(self, target: Target) -> tuple[Digest, Manifest]:
        if is_tag(target.reference):
            return await self.registry.manifests.by_tag(target.repository, target.reference)
        digest = _digest(target.reference)
        return digest, await self.registry.manifests.by_digest(target.repository, digest)

    async def _mount(self, repository: str, query: Any, visible: Visible) -> str | None:
        digest, source = _digest(query["mount"]), query.get("from")
        if source is not None and not is_repository(source):
            return None
        return await self.registry.uploads.mount(repository, digest, source=source, visible=visible)

    def _out_of_step(self, target: Target, error: RangeInvalid) -> Response:
        """A chunk that does not follow the last: the session stays, and the answer says where to go on."""
        response = error_response(error)
        response.headers += self._upload(416, target.repository, target.reference, error.detail["offset"]).headers
        return response

    def _upload(self, status: int, repository: str, upload_id: str, offset: int) -> Response:
        headers = [
            ("location", f"{self.base_url}/v2/{repository}/blobs/uploads/{upload_id}"),
            ("range", f"0-{max(offset - 1, 0)}"),
            ("docker-upload-uuid", upload_id),
        ]
        return Response(status, headers)

    def _created_blob(self, repository: str, digest: Digest) -> Response:
        headers = [
            ("location", f"{self.base_url}/v2/{repository}/blobs/{digest}"),
            ("docker-content-digest", str(digest)),
        ]
        return Response(201, headers)

    def _list(self, name: str, page: Page, path: str, count: int | None, extra: dict[str, str]) -> Response:
        return Response(200, self._list_headers(page, path, count), _json({**extra, name: list(page.entries)}))

    @staticmethod
    def _list_headers(page: Page, path: str, count: int | None) -> Headers:
        headers: Headers = [JSON]
        if page.more:
            query = {"last": page.entries[-1]} | ({} if count is None else {"n": str(count)})
            headers.append(("link", f'<{path}?{urlencode(query)}>; rel="next"'))
        return headers


def _refuse(reason: str) -> Handler:
    async def refuse(request: Request, target: Target, visible: Visible) -> Response:
        raise Unsupported(reason)

    return refuse


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise DigestInvalid(str(error)) from error


def _algorithm(name: str | None) -> str:
    if name is not None and name not in ALGORITHMS:
        raise DigestInvalid(f"digest algorithm {name[:50]!r} is not supported; use {' or '.join(ALGORITHMS)}")
    return name or CANONICAL


def _manifest_headers(digest: Digest, manifest: Manifest) -> Headers:
    text = str(digest)
    return [("content-type", manifest.media_type), ("docker-content-digest", text), ("etag", f'"{text}"')]


def _blob_headers(digest: Digest) -> Headers:
    text = str(digest)
    return [
        ("content-type", "application/octet-stream"),
        ("docker-content-digest", text),
        ("etag", f'"{text}"'),
        IMMUTABLE,
        ("accept-ranges", "bytes"),
    ]


def _not_modified(request: Request, digest: Digest) -> bool:
    known = request.headers.get("if-none-match")
    return known is not None and (known.strip() == "*" or str(digest) in known)


def _wanted_range(request: Request, digest: Digest, size: int) -> tuple[int, int] | None:
    """The part of a blob that is asked for, its end exclusive; None for the whole. Raises RangeInvalid.

    Several ranges at once are answered by the whole, as RFC 9110 (14.2) lets a server do.
    """
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    if header is None or (condition is not None and str(digest) not in condition):
        return None
    match = _BYTE_RANGE.fullmatch(header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        if "," in header or not header.startswith("bytes"):
            return None
        raise RangeInvalid(f"{header[:80]!r} is no range of bytes", {"size": size})
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise RangeInvalid(f"{header[:80]!r} is outside the blob's {size} bytes", {"size": size})
    return start, end


def _chunk(request: Request) -> Chunk:
    """The body of an upload request with what its headers say of it. Raises BlobUploadInvalid."""
    length = request.headers.get("content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise BlobUploadInvalid("Content-Length is no number")
    span = request.headers.get("content-range")
    match = None if span is None else _CONTENT_RANGE.fullmatch(span.strip())
    if span is not None and (match is None or int(match[2]) < int(match[1])):
        raise BlobUploadInvalid(f"Content-Range {span[:80]!r} is not of the form FIRST-LAST")
    return Chunk(
        body=request.body,
        length=None if length is None else int(length),
        span=None if match is None else (int(match[1]), int(match[2])),
    )


async def _read_manifest(request: Request) -> bytes:
    length = request.headers.get("content-length")
    if length is not None and _LENGTH.fullmatch(length) is not None and int(length) > MAX_SIZE:
        raise ManifestTooLarge(f"a manifest has at most {MAX_SIZE} bytes")
    pieces: list[bytes] = []
    size = 0
    async for piece in request.body:
        size += len(piece)
        if size > MAX_SIZE:
            raise ManifestTooLarge(f"a manifest has at most {MAX_SIZE} bytes")
        pieces.append(piece)
    if length is not None and size < int(length):
        raise ManifestInvalid(f"the body ended after {size} of {length} bytes")
    return b"".join(pieces)


def _page_wanted(request: Request) -> tuple[int | None, str]:
    query = request.query
    count = query.get("n")
    if count is not None and _COUNT.fullmatch(count) is None:
        raise PaginationNumberInvalid(detail={"n": count[:50]})
    return (None if count is None else int(count)), query.get("last", "")
