"""The objects of local mode: files on disk, a copy in memory, and what of an API server's ways a reconcile relies on.

That is: uid, resourceVersion and generation; a write that changes nothing is none; children go with their owner.
Volumes' content is not the store's business: no deletion here touches it.
"""

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from registry_operator.api.kinds import CHILDREN, REGISTRY, Kind
from registry_operator.cluster.local.state import StateDirectory, write_private
from registry_operator.cluster.protocol import Key, Manifest

PERSISTENT_VOLUME: Final = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)

_KINDS: Final = {(kind.api_version, kind.name): kind for kind in (REGISTRY, PERSISTENT_VOLUME, *CHILDREN)}
_OWN_METADATA: Final = frozenset({"name", "namespace", "labels", "annotations", "ownerReferences", "finalizers"})
"""What a writer may set of an object's metadata. The rest is the store's."""

Listener = Callable[[Key, Manifest | None, Manifest | None], None]
"""Told of a change: key, the object before, the object after; None where there is none."""


class ObjectStore:
    """Objects by key. One process uses a directory at a time; the manifests it returns must not be changed."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._objects: dict[Key, Manifest] = {}
        self._listeners: list[Listener] = []
        self._revision = 0

    def load(self, *, wanted: Callable[[Manifest], bool] = lambda _: True) -> None:
        """Read the objects from disk. Registries that aren't `wanted`, and what they own, stay there untouched."""
        everything = read_objects(self._state)
        left_out = {manifest["metadata"]["uid"] for manifest in everything if not wanted(manifest)}
        for manifest in everything:
            metadata = manifest["metadata"]
            self._revision = max(self._revision, int(metadata["resourceVersion"]))
            if metadata["uid"] not in left_out and not _owners(manifest) & left_out:
                self._objects[key_of(manifest)] = manifest

    def subscribe(self, listener: Listener) -> None:
        """Have every change from now on told to `listener`."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Manifest | None:
        """The object, or None where there is none."""
        return self._objects.get(key)

    def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects of a kind that carry all of `labels`."""
        wanted = (labels or {}).items()
        return [
            manifest
            for key, manifest in self._objects.items()
            if key.kind == kind
            and namespace in {None, key.namespace}
            and wanted <= manifest["metadata"].get("labels", {}).items()
        ]

    def apply(self, manifest: Manifest) -> Manifest:
        """Make the object what `manifest` says, but for its status. Returns it as stored.

        There is one writer for each object, so what it no longer says goes: as with server-side apply.
        """
        key = key_of(manifest)
        live = self._objects.get(key)
        wanted = _normalized(manifest)
        if live is None:
            fresh = {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
            return self._write(key, {**wanted, "metadata": {**wanted["metadata"], **fresh}})
        kept = {name: value for name, value in live["metadata"].items() if name not in _OWN_METADATA}
        merged = {**wanted, "metadata": {**wanted["metadata"], **kept}}
        if "status" in live:
            merged["status"] = live["status"]
        if merged == live:
            return live
        if _content(merged) != _content(live):
            merged["metadata"]["generation"] += 1
        return self._write(key, merged)

    def patch_status(self, key: Key, status: Mapping[str, Any]) -> None:
        """Replace the object's status. An object that is gone has none."""
        live = self._objects.get(key)
        if live is not None and live.get("status") != status:
            self._write(key, {**live, "metadata": dict(live["metadata"]), "status": dict(status)})

    def delete(self, key: Key, *, uid: str) -> None:
        """Delete the object with this uid, and what it owns."""
        live = self._objects.get(key)
        if live is None or live["metadata"]["uid"] != uid:
            return
        del self._objects[key]
        self._path(key).unlink(missing_ok=True)
        self._tell(key, live, None)
        for owned in [other for other, manifest in self._objects.items() if uid in _owners(manifest)]:
            if owned in self._objects:
                self.delete(owned, uid=self._objects[owned]["metadata"]["uid"])

    def _write(self, key: Key, manifest: Manifest) -> Manifest:
        before = self._objects.get(key)
        self._revision += 1
        manifest["metadata"]["resourceVersion"] = str(self._revision)
        write_private(self._path(key), json.dumps(manifest, indent=2, sort_keys=True).encode())
        self._objects[key] = manifest
        self._tell(key, before, manifest)
        return manifest

    def _tell(self, key: Key, before: Manifest | None, after: Manifest | None) -> None:
        for listener in self._listeners:
            listener(key, before, after)

    def _path(self, key: Key) -> Path:
        return self._state.objects / (key.namespace or "_") / key.kind.plural / f"{key.name}.json"


def read_objects(state: StateDirectory) -> list[Manifest]:
    """All objects on disk; each file is replaced as a whole, so this needs no lock."""
    return [json.loads(path.read_bytes()) for path in sorted(state.objects.glob("*/*/*.json"))]


def key_of(manifest: Manifest) -> Key:
    """The key of a manifest; without a namespace it is in `default`."""
    api_version, name = manifest["apiVersion"], manifest["kind"]
    kind = _KINDS.get((api_version, name)) or Kind(api_version, name, f"{name.lower()}s")
    metadata = manifest["metadata"]
    return Key(kind, metadata.get("namespace", "default"), metadata["name"])


def volume_of(objects: Callable[[Key], Manifest | None], claim: Key) -> Path | None:
    """The directory that a claim names by a PersistentVolume of type hostPath or local; None where it names none."""
    found = objects(claim)
    name = found["spec"].get("volumeName") if found else None
    volume = objects(Key(PERSISTENT_VOLUME, "default", name)) if name else None
    if volume is None:
        return None
    path = (volume["spec"].get("hostPath") or volume["spec"].get("local") or {}).get("path")
    return Path(path) if path else None


def decoded_data(manifest: Manifest | None) -> dict[str, bytes]:
    """The content of a Secret or ConfigMap; nothing for None."""
    if manifest is None:
        return {}
    data: dict[str, str] = manifest.get("data") or {}
    if manifest["kind"] == "Secret":
        return {name: base64.b64decode(value) for name, value in data.items()}
    binary: dict[str, str] = manifest.get("binaryData") or {}
    texts = {name: value.encode() for name, value in data.items()}
    return {**texts, **{name: base64.b64decode(value) for name, value in binary.items()}}


def _normalized(manifest: Manifest) -> Manifest:
    """What of the manifest is the writer's to say, with `stringData` folded into `data` and everything copied."""
    copy: Manifest = json.loads(json.dumps({name: value for name, value in manifest.items() if name != "status"}))
    copy["metadata"] = {name: value for name, value in copy["metadata"].items() if name in _OWN_METADATA}
    copy["metadata"].setdefault("namespace", "default")
    if text := copy.pop("stringData", None):
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in text.items()}
        copy["data"] = {**(copy.get("data") or {}), **encoded}
    return copy


def _content(manifest: Manifest) -> Manifest:
    return {name: value for name, value in manifest.items() if name not in {"metadata", "status"}}


def _owners(manifest: Manifest) -> set[str]:
    return {reference["uid"] for reference in manifest["metadata"].get("ownerReferences", ())}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
