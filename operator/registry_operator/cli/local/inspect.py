"""What a state directory holds, for `local status` and `local logs`: read without a lock, whether or not `up` runs."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry_operator.api.kinds import DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, REGISTRY
from registry_operator.api.names import child_name
from registry_operator.cluster.local import StateDirectory
from registry_operator.cluster.local.store import key_of, read_objects, volume_of
from registry_operator.cluster.protocol import Key, Manifest


class NoSuchRegistry(Exception):
    """No Registry, or more than one, goes by that name; the message lists those there are."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One Registry as a person wants to see it."""

    namespace: str
    name: str
    ready: bool
    address: str
    pid: int | None
    certificate_expires: str | None
    """RFC 3339; None without TLS."""
    last_backup: str | None
    """When the last backup ended that succeeded, RFC 3339; None where there is none."""
    storage: str
    storage_bytes: int
    """As stored; holes and links count once."""
    message: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def look(state: StateDirectory) -> list[Seen]:
    """All Registries of the directory."""
    running = state.running_pid() is not None
    objects = {key_of(manifest): manifest for manifest in read_objects(state)}
    return [_see(state, key, objects, running=running) for key in objects if key.kind == REGISTRY]


def find(state: StateDirectory, name: str) -> Key:
    """The Registry called `NAME` or `NAMESPACE/NAME`. Raises NoSuchRegistry."""
    namespace, _, bare = name.rpartition("/")
    keys = [key_of(manifest) for manifest in read_objects(state) if manifest["kind"] == REGISTRY.name]
    found = [key for key in keys if key.name == bare and namespace in {"", key.namespace}]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{key.namespace}/{key.name}" for key in found or keys) or "none"
    problem = "several Registries are" if found else "no Registry is"
    raise NoSuchRegistry(f"{problem} called {name} in {state.root}; there are: {known}")


def _see(state: StateDirectory, key: Key, objects: dict[Key, Manifest], *, running: bool) -> Seen:
    registry = objects[key]
    status = registry.get("status", {})
    deployment = objects.get(Key(DEPLOYMENT, key.namespace, child_name(key.name)), {})
    pid = deployment.get("status", {}).get("process", {}).get("pid") if running else None
    alive = pid is not None and Path(f"/proc/{pid}").exists()
    condition: Manifest = next((found for found in status.get("conditions", ()) if found["type"] == "Ready"), {})
    claim = (status.get("storage") or {}).get("claimName")
    storage = _storage(state, Key(PERSISTENT_VOLUME_CLAIM, key.namespace, claim), objects) if claim else None
    return Seen(
        namespace=str(key.namespace),
        name=key.name,
        ready=alive and condition.get("status") == "True",
        address=status.get("address", ""),
        pid=pid if alive else None,
        certificate_expires=(status.get("certificate") or {}).get("notAfter"),
        last_backup=(status.get("backup") or {}).get("lastSuccessTime"),
        storage=str(storage or ""),
        storage_bytes=sum(_sizes(storage)) if storage else 0,
        message=condition.get("message", "being set up") if running else "stopped: no `local up` runs",
    )


def _storage(state: StateDirectory, claim: Key, objects: dict[Key, Manifest]) -> Path:
    return volume_of(objects.get, claim) or state.claim(str(claim.namespace), claim.name)


def _sizes(directory: Path) -> Iterator[int]:
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                yield (Path(folder) / name).lstat().st_size
            except FileNotFoundError:
                continue
