"""The proof that a registry works: an image pushed and pulled as by a client, and nobody let in without a login."""

import base64
import gzip
import hashlib
import http.client
import io
import json
import secrets
import ssl
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

REPOSITORY: Final = "regatta/proof"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_TIMEOUT: Final = 10.0


class NotProven(Exception):
    """What the registry did not do, as a sentence."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a registry: `host:port`, the CA to trust (PEM; None: no TLS), and a login."""

    address: str
    ca: str | None
    username: str
    password: str


def prove(access: Access) -> None:
    """Push an image, pull it, delete it. Raises NotProven.

    The OCI distribution specification 1.1: pushing monolithically (POST, PUT), pulling, deleting.
    """
    connection = _connect(access)
    try:
        _Proof(connection, access).run()
    except (OSError, http.client.HTTPException) as error:
        raise NotProven(f"{access.address}: {error}") from error
    finally:
        connection.close()


def _connect(access: Access) -> http.client.HTTPConnection:
    host, _, port = access.address.rpartition(":")
    if access.ca is None:
        return http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT)
    trust = ssl.create_default_context(cadata=access.ca)
    return http.client.HTTPSConnection(host, int(port), timeout=_TIMEOUT, context=trust)


class _Proof:
    def __init__(self, connection: http.client.HTTPConnection, access: Access) -> None:
        self._connection = connection
        login = base64.b64encode(f"{access.username}:{access.password}".encode()).decode()
        self._login = {"Authorization": f"Basic {login}"}

    def run(self) -> None:
        self._strangers_are_refused()
        config, layer, manifest = _image()
        for blob in (config, layer):
            self._push_blob(blob)
        reference = f"/v2/{REPOSITORY}/manifests/{_digest(manifest)}"
        self._ask("PUT", reference, 201, body=manifest, headers={"Content-Type": _MANIFEST})
        self._pull(reference, manifest, {"Accept": _MANIFEST})
        for blob in (config, layer):
            self._pull(f"/v2/{REPOSITORY}/blobs/{_digest(blob)}", blob, {})
        self._ask("DELETE", reference, 202)

    def _strangers_are_refused(self) -> None:
        response = self._request("POST", f"/v2/{REPOSITORY}/blobs/uploads/", {}, b"")
        if response.status != http.client.UNAUTHORIZED or not response.getheader("WWW-Authenticate"):
            raise NotProven(f"a push without login was answered {response.status} instead of 401 with a challenge")

    def _push_blob(self, blob: bytes) -> None:
        started = self._ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/", 202)
        location = urlsplit(started.getheader("Location") or "")
        query = f"{location.query}&digest={_digest(blob)}".lstrip("&")
        octets = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{location.path}?{query}", 201, body=blob, headers=octets)

    def _pull(self, path: str, expected: bytes, headers: Mapping[str, str]) -> None:
        response = self._request("GET", path, {**self._login, **headers}, None)
        if response.status != http.client.OK or _digest(response.content) != _digest(expected):
            raise NotProven(f"GET {path} was answered {response.status} and not with what was pushed")

    def _ask(
        self, method: str, path: str, expected: int, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> "_Response":
        response = self._request(method, path, {**self._login, **(headers or {})}, body)
        if response.status != expected:
            said = response.content[:300].decode(errors="replace")
            raise NotProven(f"{method} {path} was answered {response.status} instead of {expected}: {said}")
        return response

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> "_Response":
        self._connection.request(method, path, body=body, headers=dict(headers))
        response = self._connection.getresponse()
        return _Response(response.status, dict(response.headers.items()), response.read())


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def getheader(self, name: str) -> str | None:
        """A header's value; names are in any case."""
        return next((value for known, value in self.headers.items() if known.lower() == name.lower()), None)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _image() -> tuple[bytes, bytes, bytes]:
    """Config, layer and manifest of an image with one file of random content, which no registry knows from before."""
    content, tar = secrets.token_bytes(1024), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("proof")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    layer = gzip.compress(tar.getvalue())
    rootfs = {"type": "layers", "diff_ids": [_digest(tar.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, layer)],
    }
    return config, layer, json.dumps(manifest).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
