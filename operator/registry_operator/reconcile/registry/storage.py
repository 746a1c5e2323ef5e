"""The volume: the claim that is given is checked, the state of either kind is told."""

from dataclasses import dataclass

from registry_operator.api.kinds import PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS
from registry_operator.api.registry import DEFAULT_ACCESS_MODES, Registry, StorageStatus
from registry_operator.cluster.protocol import Cluster, Key, Manifest, Rejected
from registry_operator.plan.registry import claim_name
from registry_operator.reconcile.apply import find
from registry_operator.reconcile.fault import Fault


@dataclass(frozen=True, slots=True)
class Volume:
    """What is known of the volume."""

    access_modes: tuple[str, ...]
    claim: Manifest | None = None
    """The live claim; None before ours is made."""


async def observe_volume(cluster: Cluster, registry: Registry) -> Volume:
    """The claim as it is. Raises Fault where it is missing, can't be written to, or can't take so many replicas."""
    filesystem = registry.spec.storage.filesystem
    name = claim_name(registry)
    if filesystem is None or filesystem.existing_claim is None:
        claim = await find(cluster, PERSISTENT_VOLUME_CLAIM, name, registry)
        modes = filesystem.requested_access_modes if filesystem else DEFAULT_ACCESS_MODES
    else:
        claim = await cluster.get(Key(PERSISTENT_VOLUME_CLAIM, registry.metadata.namespace, name))
        if claim is None:
            raise Fault(
                "ClaimMissing", f"storage.filesystem.existingClaim: there is no PersistentVolumeClaim {name}: create it"
            )
        modes = tuple(claim["spec"].get("accessModes", ()))
        if set(modes) <= {"ReadOnlyMany"}:
            raise Fault("ClaimReadOnly", f"PersistentVolumeClaim {name} can only be read: the registry writes")
    _check_state(claim, name)
    if registry.spec.replicas > 1 and "ReadWriteMany" not in modes:
        raise Fault(
            "ClaimNotShared",
            f"replicas above 1 need a volume that several nodes can mount, and PersistentVolumeClaim {name} is "
            f"{', '.join(modes)}: set replicas to 1, or use a claim with ReadWriteMany",
        )
    return Volume(modes, claim)


def _check_state(claim: Manifest | None, name: str) -> None:
    if claim is None:
        return
    if "deletionTimestamp" in claim["metadata"]:
        raise Fault(
            "ClaimDeleted",
            f"PersistentVolumeClaim {name} is being deleted and goes when its last pod does, with the content: "
            "save the content now if it matters",
        )
    if claim.get("status", {}).get("phase") == "Lost":
        raise Fault("ClaimLost", f"PersistentVolumeClaim {name} has lost its volume: restore the PersistentVolume")


async def check_class(cluster: Cluster, claim: Manifest | None) -> None:
    """Raises Fault where a claim waits for a volume of a class that doesn't exist."""
    if claim is None or phase(claim) != "Pending":
        return
    name = claim["spec"].get("storageClassName")
    if not name:
        return
    try:
        storage_class = await cluster.get(Key(STORAGE_CLASS, None, name))
    except Rejected:
        # Not ours to read: the claim's own events tell the rest.
        return
    if storage_class is None:
        raise Fault(
            "StorageClassMissing",
            f"PersistentVolumeClaim {claim['metadata']['name']} waits for a volume of storage class {name}, which "
            "doesn't exist: create the class, or make the Registry anew with one that `kubectl get storageclass` lists",
        )


def phase(claim: Manifest) -> str | None:
    """Pending, Bound, Lost, or None before the cluster has looked at the claim."""
    found = claim.get("status", {}).get("phase")
    return None if found is None else str(found)


def storage_status(claim: Manifest) -> StorageStatus:
    """What the Registry's status says of a claim."""
    size = claim.get("status", {}).get("capacity", {}).get("storage")
    requested = claim["spec"].get("resources", {}).get("requests", {}).get("storage")
    return StorageStatus(claim_name=claim["metadata"]["name"], size=size or requested, phase=phase(claim))
