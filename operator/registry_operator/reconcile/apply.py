"""Makes children what the plan says, and writes only where they differ.

A child is left alone when it carries the hash of what is desired now *and* still has all of it: the hash catches what
was desired once and isn't any more, the comparison what somebody else changed. What the API server filled in, or others
added beside ours, is no difference.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final

from registry_operator.api.kinds import CHILDREN, PERSISTENT_VOLUME_CLAIM, Kind
from registry_operator.api.names import DESIRED_HASH, REGISTRY_LABEL, child_labels, label_value
from registry_operator.api.quantity import amount
from registry_operator.api.registry import Registry
from registry_operator.cluster.protocol import Cluster, Key, Manifest, Rejected
from registry_operator.reconcile.fault import Fault

_KINDS: Final = {(kind.api_version, kind.name): kind for kind in CHILDREN}

_OWNERSHIP_LABELS: Final = ("app.kubernetes.io/managed-by", REGISTRY_LABEL)
"""What tells that an object without an owner is ours: a claim, or what was restored from a backup."""

_MAPS_OF_QUANTITIES: Final = ("requests", "limits")

_SELECTORS: Final = ("selector", "podSelector", "namespaceSelector", "labelSelector")
"""Maps that are one value: a label more selects something else."""

_IDENTITY: Final = {
    "containers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("name",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""Lists that server-side apply merges item by item, with what tells their items apart. All others are one value."""


def key_of(manifest: Manifest) -> Key:
    """The key of a child's manifest."""
    metadata = manifest["metadata"]
    return Key(_KINDS[manifest["apiVersion"], manifest["kind"]], metadata["namespace"], metadata["name"])


async def find(cluster: Cluster, kind: Kind, name: str, registry: Registry) -> Manifest | None:
    """The live child of that name. Raises Fault where the name belongs to an object that isn't this Registry's."""
    live = await cluster.get(Key(kind, registry.metadata.namespace, name))
    if live is not None and (stranger := _stranger(live, registry)):
        raise Fault("NameTaken", f"{kind.name} {name}, which this registry needs, {stranger}")
    return live


async def ensure(cluster: Cluster, desired: Manifest, registry: Registry) -> Manifest:
    """Makes one child what is desired, and returns the live object. Raises Fault."""
    key = key_of(desired)
    live = await find(cluster, key.kind, key.name, registry)
    stamped = _stamped(desired)
    if live is not None and is_current(stamped, live):
        return live
    try:
        return await cluster.apply(stamped)
    except Rejected as error:
        raise Fault("Rejected", f"the cluster refused {key.kind.name} {key.name}: {error}") from error


async def prune(cluster: Cluster, desired: Iterable[Manifest], registry: Registry, *, keep: Iterable[Key] = ()) -> None:
    """Deletes children that nobody desires any more. Claims, and what only looks like ours, are never touched."""
    wanted = {key_of(manifest) for manifest in desired} | set(keep)
    namespace, labels = registry.metadata.namespace, {REGISTRY_LABEL: label_value(registry.metadata.name)}
    for kind in CHILDREN:
        if kind == PERSISTENT_VOLUME_CLAIM:
            continue
        for live in await cluster.list(kind, namespace=namespace, labels=labels):
            metadata = live["metadata"]
            key = Key(kind, namespace, metadata["name"])
            owned = any(owner["uid"] == registry.metadata.uid for owner in metadata.get("ownerReferences", ()))
            if owned and key not in wanted and "deletionTimestamp" not in metadata:
                await _delete(cluster, key, metadata["uid"])


def is_current(stamped: Manifest, live: Manifest) -> bool:
    """Whether a live child needs no write."""
    live_hash = live["metadata"].get("annotations", {}).get(DESIRED_HASH)
    return live_hash == stamped["metadata"]["annotations"][DESIRED_HASH] and _holds(stamped, live)


async def _delete(cluster: Cluster, key: Key, uid: str) -> None:
    try:
        await cluster.delete(key, uid=uid)
    except Rejected as error:
        raise Fault(
            "Rejected", f"the cluster refused to delete {key.kind.name} {key.name}, which is needed no more: {error}"
        ) from error


def _stranger(live: Manifest, registry: Registry) -> str | None:
    """Why a live object isn't ours; None if it is."""
    metadata = live["metadata"]
    owner = next((owner for owner in metadata.get("ownerReferences", ()) if owner.get("controller")), None)
    if owner and owner["uid"] == registry.metadata.uid:
        return None
    if owner and (owner["kind"], owner["name"]) == (registry.resource.name, registry.metadata.name):
        return "is left from a deleted Registry of the same name; it waits until the cluster has removed it"
    if owner:
        return f"belongs to {owner['kind']} {owner['name']}: rename this Registry, or that one"
    labels, ours = metadata.get("labels", {}), child_labels(registry.metadata.name)
    if any(labels.get(name) != ours[name] for name in _OWNERSHIP_LABELS):
        hint = " (to use it as storage, name it in storage.filesystem.existingClaim of a new Registry)"
        return "exists and isn't its own: rename this Registry, or remove that object" + (
            hint if live["kind"] == PERSISTENT_VOLUME_CLAIM.name else ""
        )
    return None


def _stamped(desired: Manifest) -> Manifest:
    """The manifest with the hash of itself."""
    text = json.dumps(desired, sort_keys=True, separators=(",", ":"))
    annotations = desired["metadata"].get("annotations", {}) | {DESIRED_HASH: hashlib.sha256(text.encode()).hexdigest()}
    return {**desired, "metadata": {**desired["metadata"], "annotations": annotations}}


def _holds(desired: Any, live: Any, name: str = "") -> bool:
    """Whether all of `desired` is found in `live`. `name` is that of the member which holds both."""
    match desired:
        case dict() if name in _MAPS_OF_QUANTITIES:
            return isinstance(live, dict) and all(
                _same_amount(value, live.get(member)) for member, value in desired.items()
            )
        case dict() if name in _SELECTORS:
            return bool(desired == (live or {}))
        case dict():
            # The API server drops empty objects and lists.
            members = live or {}
            return isinstance(members, dict) and all(
                _holds(value, members.get(member), member) for member, value in desired.items()
            )
        case list():
            items = live or []
            return isinstance(items, list) and all(
                _holds(item, counterpart) for item, counterpart in _pairs(desired, items, _IDENTITY.get(name))
            )
        case _ if name == "sizeLimit":
            return _same_amount(desired, live)
        case _:
            return bool(desired == live)


def _pairs(desired: list[Any], live: list[Any], identity: tuple[str, ...] | None) -> Iterator[tuple[Any, Any]]:
    """What to compare with what: by identity where others may add items, by place where they may not."""
    if identity is None:
        return zip_longest(desired, live)
    found = {tuple(item.get(member) for member in identity): item for item in live}
    return ((item, found.get(tuple(item.get(member) for member in identity))) for item in desired)


def _same_amount(desired: Any, live: Any) -> bool:
    try:
        return amount(desired) == amount(live)
    except ValueError:
        return bool(desired == live)
