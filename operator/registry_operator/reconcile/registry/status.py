"""The Registry's status: written only when it differs, with an Event where a condition turns."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import ValidationError

from registry_operator.api.registry import Condition, RegistryStatus
from registry_operator.cluster.protocol import Cluster, Key, Manifest, Rejected
from registry_operator.reconcile.fault import Fault
from registry_operator.reconcile.registry.jobs import News
from registry_operator.reconcile.registry.rollout import Rollout

Truth = Literal["True", "False"]

_FIELDS: Final = tuple(field.alias or name for name, field in RegistryStatus.model_fields.items())

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: Literal["Ready", "Progressing", "Degraded"]
    status: Truth
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Event:
    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def judge(
    fault: Fault | None, rollout: Rollout, address: str | None, *, waits_for: str | None = None
) -> tuple[Verdict, ...]:
    """The conditions. `waits_for` is what a rollout can't go on without."""
    stuck = Fault("RolloutStuck", rollout.stuck) if rollout.stuck else None
    fault = fault or stuck
    message = f"{rollout.message}; waits for {waits_for}" if waits_for else rollout.message
    return (_ready(fault, rollout, address, message), _progressing(fault, rollout, message), _degraded(fault))


def _ready(fault: Fault | None, rollout: Rollout, address: str | None, message: str) -> Verdict:
    if rollout.available:
        return Verdict("Ready", "True", "Available", f"serves at {address}")
    if fault:
        return Verdict("Ready", "False", fault.reason, fault.message)
    return Verdict("Ready", "False", "Stopped" if rollout.complete else "Unavailable", message)


def _progressing(fault: Fault | None, rollout: Rollout, message: str) -> Verdict:
    if fault:
        return Verdict(
            "Progressing", "False", fault.reason, "nothing goes on until what Degraded tells of is put right"
        )
    if rollout.complete:
        return Verdict("Progressing", "False", "RolledOut", message)
    return Verdict("Progressing", "True", "RollingOut", message)


def _degraded(fault: Fault | None) -> Verdict:
    if fault:
        return Verdict("Degraded", "True", fault.reason, fault.message)
    return Verdict("Degraded", "False", "AsExpected", "")


def previous_status(manifest: Manifest) -> RegistryStatus:
    """The status as it was left; empty where none of ours can be read."""
    try:
        return RegistryStatus.model_validate(manifest.get("status", {}))
    except ValidationError:
        return RegistryStatus()


async def report(
    cluster: Cluster,
    key: Key,
    manifest: Manifest,
    status: RegistryStatus,
    verdicts: tuple[Verdict, ...],
    now: datetime,
    *,
    news: tuple[News, ...] = (),
) -> None:
    """Writes status and conditions if they differ from what the manifest holds; tells of what turned, and `news`."""
    before = {condition.type: condition for condition in previous_status(manifest).conditions or ()}
    generation = manifest["metadata"].get("generation", 0)
    conditions = tuple(_condition(verdict, before.get(verdict.type), generation, now) for verdict in verdicts)
    written = status.model_copy(update={"observed_generation": generation, "conditions": conditions})
    desired = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    if desired == _ours(manifest.get("status", {})):
        return
    try:
        await cluster.patch_status(key, desired)
    except Rejected as error:
        logger.warning("%s/%s: the status could not be written: %s", key.namespace, key.name, error)
        return
    for verdict in verdicts:
        if event := _event(verdict, before.get(verdict.type)):
            await cluster.emit_event(manifest, kind=event.kind, reason=event.reason, message=event.message)
    for one in news:
        kind: Literal["Normal", "Warning"] = "Warning" if one.failed else "Normal"
        await cluster.emit_event(manifest, kind=kind, reason=one.reason, message=one.message)


def _condition(verdict: Verdict, before: Condition | None, generation: int, now: datetime) -> Condition:
    since = before.last_transition_time if before and before.status == verdict.status else now.replace(microsecond=0)
    return Condition(
        type=verdict.type,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message,
        last_transition_time=since,
        observed_generation=generation,
    )


def _event(verdict: Verdict, before: Condition | None) -> _Event | None:
    """What people want to know of a condition that turned."""
    was = before.status if before else None
    match verdict.type, verdict.status:
        case "Ready", "True" if was != "True":
            return _Event("Normal", verdict.reason, verdict.message)
        case "Ready", "False" if was == "True":
            return _Event("Warning", verdict.reason, verdict.message)
        case "Degraded", "True" if before is None or (was, before.reason) != ("True", verdict.reason):
            return _Event("Warning", verdict.reason, verdict.message)
        case "Degraded", "False" if before is not None and was == "True":
            return _Event("Normal", "Recovered", f"{before.reason} is over")
    return None


def _ours(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name in _FIELDS}
