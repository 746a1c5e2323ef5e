"""One manifest: its bytes, and what the registry needs to know of them.

Sources: OCI image-spec (manifest, index, descriptor), Docker's image manifest version 2, schema 2.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from registry_server.metadata.contract import Descriptor, LinkedManifest
from registry_server.reference import Digest, InvalidDigest
from registry_server.registry.errors import ManifestInvalid

OCI_IMAGE: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_IMAGE: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

IMAGES: Final = (OCI_IMAGE, DOCKER_IMAGE)
INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
SUPPORTED: Final = (*IMAGES, *INDEXES)

_DIGESTS: Final = re.compile(rb"sha256:[a-f0-9]{64}(?![a-f0-9])|sha512:[a-f0-9]{128}(?![a-f0-9])")

NON_DISTRIBUTABLE: Final = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
"""Layers that a client fetches elsewhere, and that need not be in the registry."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was pushed, byte for byte."""

    content: bytes
    media_type: str
    blobs: tuple[Digest, ...] = ()
    """The config and the layers that must be in the repository."""
    manifests: tuple[Digest, ...] = ()
    """What an index lists."""
    elsewhere: tuple[Digest, ...] = ()
    """What need not be in the repository, but must not be collected if it is: layers to be fetched elsewhere, and all
    that is named in what can't be understood."""
    subject: Digest | None = None
    """The manifest this one refers to, which need not exist."""
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None

    @classmethod
    def pushed(cls, content: bytes, media_type: str | None) -> "Manifest":
        """Check what a client pushes. `media_type` is the request's Content-Type. Raises ManifestInvalid."""
        document = _load(content)
        if document.get("schemaVersion") != 2:
            raise ManifestInvalid("schemaVersion must be 2")
        if _has(document, "manifests") and (_has(document, "config") or _has(document, "layers")):
            # Two clients could see two things behind one digest (CVE-2021-41190).
            raise ManifestInvalid(
                "the manifest has the fields of an image and those of an index; it must be one of them"
            )
        declared = document.get("mediaType")
        media_type = media_type or declared or _guess(document)
        if media_type not in SUPPORTED:
            raise ManifestInvalid(
                f"media type {str(media_type)[:100]!r} is not supported; send one of {', '.join(SUPPORTED)}"
            )
        if declared is not None and declared != media_type:
            raise ManifestInvalid(f"mediaType is {str(declared)[:100]!r} but Content-Type says {media_type!r}")
        if declared is None and media_type != _guess(document):
            # Storage keeps the content alone, so whoever pulls it would be told another type than was pushed.
            raise ManifestInvalid(f"the field mediaType is missing; it must be {media_type!r}")
        return cls._read(content, document, media_type)

    @classmethod
    def stored(cls, content: bytes) -> "Manifest":
        """Read what is in storage, perhaps written by another registry: what can't be understood is served as it is."""
        try:
            document = _load(content)
            media_type = document.get("mediaType")
            media_type = media_type if isinstance(media_type, str) else _guess(document)
            return cls._read(content, document, media_type)
        except ManifestInvalid:
            named = {Digest.parse(text.decode()) for text in _DIGESTS.findall(content)}
            return cls(content, "application/octet-stream", elsewhere=tuple(sorted(named)))

    @classmethod
    def _read(cls, content: bytes, document: dict[str, Any], media_type: str) -> "Manifest":
        if media_type in INDEXES:
            manifests = tuple(_digest(entry, "manifests") for entry in _list(document, "manifests"))
            blobs: tuple[Digest, ...] = ()
            elsewhere: tuple[Digest, ...] = ()
            artifact_type = _text(document, "artifactType")
        else:
            config = document.get("config")
            layers = _list(document, "layers")
            needed = [_digest(entry, "layers") for entry in layers if not _is_elsewhere(entry)]
            blobs = tuple(dict.fromkeys([_digest(config, "config"), *needed]))
            elsewhere = tuple(digest for entry in layers if _is_elsewhere(entry) for digest in _digests(entry))
            manifests = ()
            artifact_type = _text(document, "artifactType") or (
                _text(config, "mediaType") if isinstance(config, dict) else None
            )
        subject = document.get("subject")
        return cls(
            content=content,
            media_type=media_type,
            blobs=blobs,
            manifests=manifests,
            elsewhere=elsewhere,
            subject=None if subject is None else _digest(subject, "subject"),
            artifact_type=artifact_type,
            annotations=_annotations(document),
        )

    def linked(self, digest: Digest, content: Digest) -> LinkedManifest:
        """What metadata keeps of this manifest: pushed by `digest`, `content` its canonical one."""
        descriptor = Descriptor(
            digest, self.media_type, len(self.content), self.artifact_type, annotations=self.annotations or {}
        )
        blobs = (*self.blobs, *self.elsewhere)
        return LinkedManifest(descriptor, content, blobs, self.manifests, self.subject)


def understand(digest: Digest, content: bytes) -> LinkedManifest:
    """What metadata keeps of a manifest that is in storage, linked by `digest`."""
    return Manifest.stored(content).linked(digest, Digest.of(content))


def _load(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("the manifest is not a JSON object")
    return document


def _guess(document: dict[str, Any]) -> str:
    """mediaType is optional in OCI documents; their fields tell them apart."""
    return OCI_INDEX if "manifests" in document else OCI_IMAGE


def _has(document: dict[str, Any], field: str) -> bool:
    return document.get(field) is not None


def _list(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    entries = document[field] if _has(document, field) else []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestInvalid(f"{field} must be a list of descriptors")
    return entries


def _digest(descriptor: Any, field: str) -> Digest:
    if not isinstance(descriptor, dict):
        raise ManifestInvalid(f"{field} must be a descriptor with mediaType, digest and size")
    try:
        digest = Digest.parse(str(descriptor.get("digest")))
    except InvalidDigest as error:
        raise ManifestInvalid(f"{field}: {error}") from error
    size = descriptor.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestInvalid(f"{field}: size must be a number of bytes")
    return digest


def _digests(descriptor: dict[str, Any]) -> Iterator[Digest]:
    """The digest of a layer that nobody checks, if it is one."""
    with suppress(InvalidDigest):
        yield Digest.parse(str(descriptor.get("digest")))


def _is_elsewhere(descriptor: dict[str, Any]) -> bool:
    return bool(descriptor.get("urls")) or str(descriptor.get("mediaType")).startswith(NON_DISTRIBUTABLE)


def _text(document: dict[str, Any], field: str) -> str | None:
    value = document.get(field)
    return value if isinstance(value, str) and value else None


def _annotations(document: dict[str, Any]) -> dict[str, str] | None:
    annotations = document.get("annotations")
    if not isinstance(annotations, dict):
        return None
    return {key: value for key, value in annotations.items() if isinstance(value, str)}
