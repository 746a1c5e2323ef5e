"""The XML API of Google Cloud Storage before fake-gcs-server, which knows the JSON API: `gcs_xml PORT UPSTREAM`.

obstore speaks the XML API alone. What it needs is translated here, request by request, so that its objects and those
that distribution writes by the JSON API are the same. No logins; parts of a multipart upload are kept in files.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from aiohttp import ClientResponse, ClientSession, ClientTimeout, web
from yarl import URL

HEADERS = ("ETag", "Last-Modified", "Content-Range", "Content-Type", "X-Goog-Generation")


class Gateway:
    """One upstream."""

    def __init__(self, upstream: str, folder: Path) -> None:
        self._upstream = upstream
        self._folder = folder
        self._uploads: dict[str, dict[int, Path]] = {}
        self._ids = map(str, itertools.count(1))

    async def serve(self, port: int) -> None:
        async with ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False) as self._session:
            application = web.Application(client_max_size=1 << 30)
            application.router.add_route("*", "/{path:.*}", self.answer)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await asyncio.Event().wait()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        bucket, _, key = unquote(request.raw_path.partition("?")[0]).removeprefix("/").partition("/")
        upload = request.query.get("uploadId")
        match request.method:
            case "GET" if not key:
                return await self._list(bucket, request)
            case "GET" | "HEAD":
                return await self._read(bucket, key, request)
            case "DELETE" if upload:
                _remove(self._uploads.pop(upload, {}).values())
                return web.Response(status=204)
            case "DELETE":
                async with self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}") as response:
                    return web.Response(status=response.status)
            case "POST" if "uploads" in request.query:
                upload = next(self._ids)
                self._uploads[upload] = {}
                text = f"<UploadId>{upload}</UploadId>"
                return _xml(f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>")
            case "POST" if upload:
                parts = self._uploads.pop(upload)
                await self._write(bucket, key, _content(parts[number] for number in sorted(parts)), None)
                _remove(parts.values())
                return _xml("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
            case "PUT" if upload:
                number = int(request.query["partNumber"])
                self._uploads[upload][number] = part = self._folder / f"{upload}-{number}"
                part.write_bytes(await request.read())
                return web.Response(headers={"ETag": f'"{number}"'})
            case "PUT" if source := request.headers.get("x-goog-copy-source"):
                origin, _, original = unquote(source).partition("/")
                to = f"/b/{bucket}/o/{quote(key, safe='')}"
                path = f"/storage/v1/b/{origin}/o/{quote(original, safe='')}/rewriteTo{to}"
                async with self._ask("POST", path) as response:
                    return web.Response(status=response.status)
            case _:
                condition = request.headers.get("x-goog-if-generation-match")
                return await self._write(bucket, key, await request.read(), condition)

    async def _write(
        self, bucket: str, key: str, content: bytes | AsyncIterator[bytes], condition: str | None
    ) -> web.Response:
        query = f"uploadType=media&name={quote(key, safe='')}"
        if condition is not None:
            query += f"&ifGenerationMatch={condition}"
        async with self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", content) as response:
            if response.status != 200:
                return web.Response(status=response.status)
            stored = await response.json()
            return web.Response(headers={"ETag": stored["etag"], "x-goog-generation": stored["generation"]})

    async def _read(self, bucket: str, key: str, request: web.Request) -> web.StreamResponse:
        headers = {"Range": request.headers["Range"]} if "Range" in request.headers else {}
        path = f"/download/storage/v1/b/{bucket}/o/{quote(key, safe='')}"
        async with self._ask(request.method, path, headers=headers) as response:
            answer = web.StreamResponse(status=response.status)
            answer.headers.update({name: response.headers[name] for name in HEADERS if name in response.headers})
            answer.content_length = response.content_length or 0
            await answer.prepare(request)
            if request.method == "GET":
                async for piece in response.content.iter_chunked(1 << 18):
                    await answer.write(piece)
            await answer.write_eof()
            return answer

    async def _list(self, bucket: str, request: web.Request) -> web.Response:
        query = {name: request.query[name] for name in ("prefix", "delimiter") if name in request.query}
        if after := request.query.get("start-after"):
            query["startOffset"] = after
        if token := request.query.get("continuation-token"):
            query["pageToken"] = token
        wanted = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        async with self._ask("GET", f"/storage/v1/b/{bucket}/o?{wanted}") as response:
            listed = await response.json()
        objects = "".join(
            f"<Contents><Key>{escape(one['name'])}</Key><Size>{one['size']}</Size><ETag>{escape(one['etag'])}</ETag>"
            f"<LastModified>{one['updated']}</LastModified></Contents>"
            for one in listed.get("items", [])
        )
        folders = "".join(
            f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
            for prefix in listed.get("prefixes", [])
        )
        more = listed.get("nextPageToken")
        following = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
        return _xml(f"<ListBucketResult>{objects}{folders}{following}</ListBucketResult>")

    def _ask(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> AbstractAsyncContextManager[ClientResponse]:
        url = URL(f"{self._upstream}{path}", encoded=True)
        return self._session.request(method, url, data=content, headers=headers)


def _xml(text: str) -> web.Response:
    return web.Response(text=f'<?xml version="1.0" encoding="UTF-8"?>{text}', content_type="application/xml")


async def _content(parts: Iterable[Path]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part.read_bytes()


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(Gateway(sys.argv[2], Path(folder)).serve(int(sys.argv[1])))
