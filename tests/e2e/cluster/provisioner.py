"""Gives each claim of the storage class a folder on the node, as a `local` volume; one of the cluster's components.

`local`, because the kubelet applies a pod's fsGroup to it and not to `hostPath`. Growth is granted in name: no quota
holds a folder to its size. A folder goes with its volume where the class says `Delete`.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity
from urllib3.exceptions import HTTPError

PROVISIONER = "regatta.local/folders"
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"


class Folders:
    def __init__(self, kubeconfig: str, folder: Path, node: str) -> None:
        api = config.new_client_from_config(kubeconfig)  # type: ignore[no-untyped-call]
        self._core = client.CoreV1Api(api)
        self._storage = client.StorageV1Api(api)
        self._folder = folder
        self._node = node

    def run(self) -> None:
        follow_volumes = (self._core.list_persistent_volume, self._on_volume)
        threading.Thread(target=_follow, args=follow_volumes, daemon=True).start()
        _follow(self._core.list_persistent_volume_claim_for_all_namespaces, self._on_claim)

    def _on_claim(self, claim: Any) -> None:
        notes = claim.metadata.annotations or {}
        if notes.get(_STORAGE_PROVISIONER) != PROVISIONER or claim.metadata.deletion_timestamp:
            return
        if claim.status.phase == "Pending" and notes.get(_SELECTED_NODE) == self._node:
            self._provision(claim)
        elif claim.status.phase == "Bound":
            self._grow(claim)

    def _provision(self, claim: Any) -> None:
        name = f"pvc-{claim.metadata.uid}"
        storage_class = self._storage.read_storage_class(claim.spec.storage_class_name)
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        on_this_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}
        volume: Any = {
            "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}},
            "spec": {
                "capacity": {"storage": claim.spec.resources.requests["storage"]},
                "accessModes": claim.spec.access_modes,
                "storageClassName": claim.spec.storage_class_name,
                "persistentVolumeReclaimPolicy": storage_class.reclaim_policy,
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_this_node]}]}},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": claim.metadata.namespace,
                    "name": claim.metadata.name,
                    "uid": claim.metadata.uid,
                },
            },
        }
        try:
            self._core.create_persistent_volume(volume)
        except ApiException as error:
            if error.status != 409:  # made before, and not bound yet
                raise

    def _grow(self, claim: Any) -> None:
        wanted = claim.spec.resources.requests["storage"]
        bytes_: Callable[[str], Decimal] = parse_quantity
        if bytes_(wanted) <= bytes_(claim.status.capacity["storage"]):
            return
        capacity = {"capacity": {"storage": wanted}}
        self._core.patch_persistent_volume(claim.spec.volume_name, {"spec": capacity})
        self._core.patch_namespaced_persistent_volume_claim_status(
            claim.metadata.name, claim.metadata.namespace, {"status": capacity}
        )

    def _on_volume(self, volume: Any) -> None:
        ours = (volume.metadata.annotations or {}).get(_PROVISIONED_BY) == PROVISIONER
        released = volume.status.phase == "Released" and volume.spec.persistent_volume_reclaim_policy == "Delete"
        if ours and released and not volume.metadata.deletion_timestamp:
            shutil.rmtree(self._folder / volume.metadata.name, ignore_errors=True)
            self._core.delete_persistent_volume(volume.metadata.name)


def _follow(lister: Callable[..., Any], act: Callable[[Any], None]) -> None:
    """Acts on each object, and again whenever it changes; what fails is tried again with the next full list."""
    stream: Callable[..., Iterator[Any]] = watch.Watch().stream  # type: ignore[no-untyped-call]
    while True:
        try:
            for event in stream(lister, timeout_seconds=300):
                if event["type"] in {"ADDED", "MODIFIED"}:
                    act(event["object"])
        except (ApiException, HTTPError, OSError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    Folders(sys.argv[1], Path(sys.argv[2]), sys.argv[3]).run()
