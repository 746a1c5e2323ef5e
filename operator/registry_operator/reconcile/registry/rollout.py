"""How far the Deployment is."""

from dataclasses import dataclass
from typing import Final

from registry_operator.api.names import REGISTRY_LABEL
from registry_operator.cluster.protocol import Manifest

_PROGRESS_DEADLINE: Final = "ProgressDeadlineExceeded"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state of a Deployment, in words."""

    available: bool
    """Whether anything serves."""
    complete: bool
    """Whether all replicas are of the newest template and serve."""
    message: str
    stuck: str | None = None
    """Why it won't go on by itself, and what to do."""


NOT_BEGUN: Final = Rollout(available=False, complete=False, message="no Deployment yet")


def read_rollout(deployment: Manifest | None) -> Rollout:
    """The state of a live Deployment."""
    if deployment is None:
        return NOT_BEGUN
    status = deployment.get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    old = status.get("replicas", 0) - updated
    complete = seen and old <= 0 and updated >= wanted and available >= wanted
    return Rollout(
        available=wanted > 0 and _condition(deployment, "Available").get("status") == "True",
        complete=complete,
        message=_message(wanted, updated, available) if seen else "waits for the Deployment to be taken up",
        stuck=None if complete or not seen else _stuck(deployment),
    )


def _message(wanted: int, updated: int, available: int) -> str:
    if wanted == 0:
        return "stopped: spec.replicas is 0"
    return f"{available} of {wanted} replicas available, {updated} up to date"


def _stuck(deployment: Manifest) -> str | None:
    """What a person must look at. The Deployment names neither image nor node: the pods' events do."""
    failure = _condition(deployment, "ReplicaFailure")
    if failure.get("status") == "True":
        return str(failure.get("message", "replicas can't be made"))
    progressing = _condition(deployment, "Progressing")
    if progressing.get("reason") != _PROGRESS_DEADLINE:
        return None
    metadata = deployment["metadata"]
    selector = f"{REGISTRY_LABEL}={metadata['labels'][REGISTRY_LABEL]}"
    return (
        f"the rollout is stuck: {progressing.get('message', 'no progress')}; "
        f"see why by: kubectl -n {metadata['namespace']} describe pods -l {selector}"
    )


def _condition(deployment: Manifest, type_: str) -> Manifest:
    conditions: list[Manifest] = deployment.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == type_), {})
