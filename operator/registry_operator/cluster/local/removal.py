"""Deletes a registry for good: what `local down --delete-data` does, and nothing else ever."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from registry_operator.api.kinds import PERSISTENT_VOLUME_CLAIM
from registry_operator.api.names import REGISTRY_LABEL, child_name, label_value
from registry_operator.cluster.local.state import StateDirectory
from registry_operator.cluster.local.store import ObjectStore, key_of
from registry_operator.cluster.protocol import Key


def delete_registry(state: StateDirectory, key: Key) -> Iterator[Path]:
    """Delete the Registry, what it owns, its claims with their content, and its logs; yields the directories that went.

    The state directory must be locked. A claim that the Registry was given (`existingClaim`) is not its own and stays.
    """
    store = ObjectStore(state)
    store.load()
    registry = store.get(key)
    if registry is None:
        return
    namespace = str(key.namespace)
    labels = {REGISTRY_LABEL: label_value(key.name)}
    for claim in store.list(PERSISTENT_VOLUME_CLAIM, namespace=namespace, labels=labels):
        claim_key = key_of(claim)
        store.delete(claim_key, uid=claim["metadata"]["uid"])
        yield from _remove(state.claim(namespace, claim_key.name))
    store.delete(key, uid=registry["metadata"]["uid"])
    yield from _remove(state.registry(namespace, key.name))
    shutil.rmtree(state.scratch(namespace, child_name(key.name)), ignore_errors=True)
    log = state.log(namespace, child_name(key.name))
    for path in log.parent.glob(f"{log.name}*"):
        path.unlink()


def _remove(directory: Path) -> Iterator[Path]:
    if directory.exists():
        shutil.rmtree(directory)
        yield directory
