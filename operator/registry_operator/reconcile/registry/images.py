"""The images of a Registry that pods run: retention and garbage collection leave them."""

from typing import Final

from registry_operator.api.placement import Placement
from registry_operator.api.registry import Registry
from registry_operator.cluster.protocol import Cluster, Rejected
from registry_operator.reconcile.fault import Fault

MOST: Final = 5000
"""Of one registry: they have to fit into a Secret."""


async def observe_images(cluster: Cluster, registry: Registry, placement: Placement) -> tuple[str, ...]:
    """Those that pods run or shall run, sorted; none unless retention keeps them. Raises Fault, Unavailable."""
    retention = registry.spec.retention
    if retention is None or not retention.keep_running:
        return ()
    port = placement.address.rpartition(":")[2]
    hosts = {placement.address, *(f"{host}:{port}" for host in placement.hosts), *(retention.hosts or ())}
    try:
        found = await cluster.images(hosts)
    except Rejected as error:
        raise Fault(
            "PodsUnknown",
            f"retention.keepRunning: which images pods run can't be seen: {error}; let the operator list pods, or set "
            "retention.keepRunning to false",
        ) from error
    if len(found) > MOST:
        raise Fault(
            "TooManyImages",
            f"retention.keepRunning: pods run {len(found)} images of this registry, and no more than {MOST} can be "
            "handed over: split the registry, or set retention.keepRunning to false and keep by pulledWithin",
        )
    return tuple(found)
