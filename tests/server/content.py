"""What tests push: blobs and manifests through the API as a client would, and their digests."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"

_numbers = itertools.count()


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(content: bytes, media_type: str = OCI_LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def image(config: bytes = b"{}", layers: Sequence[bytes] = (), **more: Any) -> bytes:
    """An OCI image manifest."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, OCI_CONFIG),
            "layers": [descriptor(layer) for layer in layers],
            **more,
        }
    ).encode()


def index(manifests: Sequence[bytes] = (), **more: Any) -> bytes:
    """An OCI index of image manifests."""
    entries = [descriptor(manifest, OCI_MANIFEST) for manifest in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}).encode()


def unique(prefix: str = "content") -> bytes:
    """Content that no other test pushes."""
    return f"{prefix}-{next(_numbers)}".encode()


@dataclass(frozen=True)
class Repository:
    """A repository of a live registry, seen through a client."""

    client: httpx.Client
    name: str

    @property
    def path(self) -> str:
        return f"/v2/{self.name}"

    def sibling(self, suffix: str) -> "Repository":
        return Repository(self.client, f"{self.name}/{suffix}")

    def start_upload(self) -> str:
        """Begins an upload and returns its location."""
        response = self.client.post(f"{self.path}/blobs/uploads/")
        assert response.status_code == 202, response.text
        return response.headers["location"]

    def push_blob(self, content: bytes, algorithm: str = "sha256") -> str:
        """Pushes a blob by POST and PUT; returns its digest."""
        digest = digest_of(content, algorithm)
        location = httpx.URL(self.start_upload()).copy_merge_params({"digest": digest})
        response = self.client.put(location, content=content)
        assert response.status_code == 201, response.text
        return digest

    def put_manifest(
        self, content: bytes, reference: str | None = None, media_type: str | None = OCI_MANIFEST
    ) -> httpx.Response:
        headers = {} if media_type is None else {"content-type": media_type}
        reference = reference or digest_of(content)
        return self.client.put(f"{self.path}/manifests/{reference}", content=content, headers=headers)

    def push_manifest(self, content: bytes, reference: str | None = None, media_type: str = OCI_MANIFEST) -> str:
        """Pushes a manifest by tag, or else by digest; returns its digest."""
        response = self.put_manifest(content, reference, media_type)
        assert response.status_code == 201, response.text
        return response.headers["docker-content-digest"]

    def push_image(self, reference: str | None = None, *, layers: Sequence[bytes] | None = None, **more: Any) -> bytes:
        """Pushes an OCI image and returns its manifest; without layers given one that no other image has."""
        layers = [unique()] if layers is None else layers
        for blob in (b"{}", *layers):
            self.push_blob(blob)
        manifest = image(b"{}", layers, **more)
        self.push_manifest(manifest, reference)
        return manifest

    def get_manifest(self, reference: str) -> httpx.Response:
        return self.client.get(f"{self.path}/manifests/{reference}")

    def get_blob(self, digest: str, **headers: str) -> httpx.Response:
        return self.client.get(f"{self.path}/blobs/{digest}", headers=headers)

    def tags(self) -> list[str]:
        response = self.client.get(f"{self.path}/tags/list")
        return response.json()["tags"] if response.status_code == 200 else []

    def referrers(self, subject: str, **query: str) -> list[dict[str, Any]]:
        response = self.client.get(f"{self.path}/referrers/{subject}", params=query)
        assert response.status_code == 200, response.text
        manifests: list[dict[str, Any]] = response.json()["manifests"]
        return manifests


def error_codes(response: httpx.Response) -> list[str]:
    """The codes in an error body of the specification's form."""
    assert response.headers["content-type"] == "application/json"
    return [error["code"] for error in response.json()["errors"]]
