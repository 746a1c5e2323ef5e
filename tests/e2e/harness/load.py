"""Clients that push and pull all the time: what they acknowledge must stay, and what they ask for must not fail.

`loading.py` runs this file in a pod of the server's image, which has a Python, so that its requests take the way of any
pod's: the cluster's DNS, the Service, kube-proxy. In there it is a program of the standard library alone:

    python load.py https://team.images.svc:5000 [--ca FILE] [--login FOLDER] [--clients N] --stop FILE

It prints a line of JSON for the first image pushed and pulled (`ready`), for each request that failed, and at last for
the whole (`requests`, `failed`, …), after it has pulled again every image whose push was acknowledged. It ends once the
file `--stop` is there.

As all clients do, it looks whether a kept connection was closed before it uses it, and sends a request again on a new
one if the server closed it just then; these are counted (`resent`), not failed. All else that is no success is a
failure: nothing else is tried twice.
"""

import argparse
import base64
import hashlib
import http.client
import itertools
import json
import secrets
import select
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_BLOB = "application/octet-stream"
_LAYER_BYTES = 64 << 10
_PAUSE = 0.02  # seconds between images: a constant load that leaves the machine to others, too
_REPORTED = 1000  # failures; more are only counted
_TIMEOUT = 30
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Failed(Exception):
    """A request did not do what it was to do; it is recorded already."""


@dataclass
class Journal:
    """What happened, for all threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    failed: int = 0
    resent: int = 0
    pushed: int = 0
    pulled: int = 0
    images: list["Image"] = field(default_factory=list)
    ready: bool = False

    def count(self, name: str) -> None:
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)

    def failure(self, request: str, reason: str) -> None:
        with self.lock:
            self.failed += 1
            if self.failed <= _REPORTED:
                say({"time": time.time(), "failure": request, "reason": reason})

    def acknowledged(self, image: "Image") -> None:
        with self.lock:
            self.images.append(image)

    def some_image(self) -> "Image | None":
        with self.lock:
            return secrets.choice(self.images) if self.images else None

    def summary(self) -> dict[str, Any]:
        names = ("requests", "failed", "resent", "pushed", "pulled")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Image:
    """A manifest and its blobs, by their digests."""

    repository: str
    tag: str
    manifest: str
    blobs: tuple[str, ...]


@dataclass
class Client:
    """One connection at a time, kept as clients do."""

    url: str
    ca: Path | None
    login: Path | None
    journal: Journal
    connection: http.client.HTTPConnection | None = None

    def push(self, repository: str) -> Image:
        layer, config = secrets.token_bytes(_LAYER_BYTES), json.dumps({"made": secrets.token_hex(8)}).encode()
        blobs = [self._push_blob(repository, content) for content in (config, layer)]
        kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar")
        described = [
            {"mediaType": kind, "digest": digest, "size": len(content)}
            for kind, digest, content in zip(kinds, blobs, (config, layer), strict=True)
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0], "layers": described[1:]}
        ).encode()
        image = Image(repository, secrets.token_hex(8), digest_of(manifest), tuple(blobs))
        self._ask("PUT", f"/v2/{repository}/manifests/{image.tag}", 201, manifest, {"Content-Type": _MANIFEST})
        self.journal.acknowledged(image)
        self.journal.count("pushed")
        return image

    def pull(self, image: Image) -> None:
        accept = {"Accept": _MANIFEST}
        for reference in (image.tag, image.manifest):
            self._fetch(f"/v2/{image.repository}/manifests/{reference}", image.manifest, accept)
        for blob in image.blobs:
            self._fetch(f"/v2/{image.repository}/blobs/{blob}", blob, {})
        self.journal.count("pulled")

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def _push_blob(self, repository: str, content: bytes) -> str:
        digest = digest_of(content)
        started, _ = self._ask("POST", f"/v2/{repository}/blobs/uploads/", 202, b"")
        location = urlsplit(started.get("Location", ""))
        query = f"{location.query}&digest={digest}".lstrip("&")
        self._ask("PUT", f"{location.path}?{query}", 201, content, {"Content-Type": _BLOB})
        return digest

    def _fetch(self, path: str, digest: str, headers: dict[str, str]) -> None:
        _, content = self._ask("GET", path, 200, None, headers)
        if digest_of(content) != digest:
            self.journal.failure(f"GET {path}", f"the content's digest is {digest_of(content)}")
            raise Failed

    def _ask(
        self, method: str, path: str, expected: int, body: bytes | None, headers: dict[str, str] | None = None
    ) -> tuple[Any, bytes]:
        self.journal.count("requests")
        try:
            status, answered, content = self._send(method, path, body, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.journal.failure(f"{method} {path}", f"{type(error).__name__}: {error}")
            raise Failed from error
        if status != expected:
            self.journal.failure(f"{method} {path}", f"{status}: {content[:200].decode(errors='replace')}")
            raise Failed
        return answered, content

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        kept = self.connection is not None
        if self.connection and select.select([self.connection.sock], [], [], 0)[0]:
            self.close()
            kept = False
        try:
            return self._exchange(method, path, body, headers)
        except _CLOSED:
            self.close()
            if not kept:
                raise
        self.journal.count("resent")
        return self._exchange(method, path, body, headers)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        connection = self.connection = self.connection or self._connect()
        connection.request(method, path, body=body, headers=headers | self._authorization())
        response = connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        return response.status, response.headers, content

    def _connect(self) -> http.client.HTTPConnection:
        to = urlsplit(self.url)
        assert to.hostname
        if to.scheme == "http":
            return http.client.HTTPConnection(to.hostname, to.port, timeout=_TIMEOUT)
        trust = ssl.create_default_context(cafile=self.ca)
        return http.client.HTTPSConnection(to.hostname, to.port, timeout=_TIMEOUT, context=trust)

    def _authorization(self) -> dict[str, str]:
        """Read each time: a mounted Secret may change."""
        if self.login is None:
            return {}
        user, password = ((self.login / part).read_text() for part in ("username", "password"))
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def work(client: Client, repository: str, stop: Path, *, pushes: bool) -> None:
    """One client's life: pushes, or pulls of what others have pushed; a new connection every few images."""
    for turn in itertools.count(1):
        if stop.exists():
            break
        try:
            if pushes:
                client.push(repository)
            elif image := client.journal.some_image():
                client.pull(image)
                with client.journal.lock:
                    if not client.journal.ready:
                        client.journal.ready = True
                        say({"ready": True})
        except Failed:
            pass
        if turn % 10 == 0:
            client.close()
        time.sleep(_PAUSE)
    client.close()


def verify(client: Client, images: list[Image]) -> int:
    """How many of them are not there any more."""
    lost = 0
    for image in images:
        try:
            client.pull(image)
        except Failed:
            lost += 1
    client.close()
    return lost


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--login", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--stop", type=Path, required=True)
    asked = parser.parse_args()
    journal = Journal()
    run = secrets.token_hex(4)

    def client() -> Client:
        return Client(asked.url, asked.ca, asked.login, journal)

    threads = [
        threading.Thread(
            target=work, args=(client(), f"load/{run}-{number}", asked.stop), kwargs={"pushes": number % 2 == 0}
        )
        for number in range(asked.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parts = [journal.images[number :: asked.clients] for number in range(asked.clients)]
    with ThreadPoolExecutor(asked.clients) as pool:
        lost = sum(pool.map(verify, [client() for _ in parts], parts))
    say(journal.summary() | {"lost": lost})


if __name__ == "__main__":
    main()
