"""How the jobs of a Registry go, as its server says: for the status, as Events, and each backup as a RegistryBackup."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from registry_operator.api.backup import RegistryBackupSpec, RegistryBackupStatus
from registry_operator.api.kinds import REGISTRY_BACKUP
from registry_operator.api.names import REGISTRY_LABEL, child_labels, child_name, label_value
from registry_operator.api.registry import BackupJobStatus, JobStatus, Registry, RegistryStatus
from registry_operator.cluster.protocol import Cluster, Key, Manifest, Rejected
from registry_operator.plan.jobs import placed

FIELDS: Final = {
    "backup": "backup",
    "garbage-collect": "garbage_collection",
    "retention": "retention",
    "scrub": "scrub",
}
"""Of the spec and of the status, by what the server calls the job."""
FAILURES_KEPT: Final = 3
"""RegistryBackups of runs that broke off."""

SOON: Final = 10.0
"""Seconds until the next look at what runs."""
LATER: Final = 300.0
"""Seconds until the next look at what recurs, at the latest."""
MARGIN: Final = 5.0
"""Seconds after a job was due that it has begun."""

logger = logging.getLogger(__name__)


class _Sum(BaseModel):
    count: int
    bytes: int


class Run(BaseModel):
    """A run that has ended, as the server tells of it."""

    ended: datetime
    seconds: float
    error: str | None
    result: str | None
    sums: Mapping[str, _Sum]


class _Job(BaseModel):
    name: str
    next: datetime | None
    runs: Sequence[Run]
    kept: Sequence[str] | None = None
    """Of backups: the runs that are in the archive; None where that could not be told."""


class _Underway(BaseModel):
    name: str
    began: datetime


class Report(BaseModel):
    """What a server says of its jobs."""

    jobs: Sequence[_Job]
    running: Sequence[_Underway]

    def status(self, registry: Registry) -> Mapping[str, JobStatus]:
        """By field of the status, of the jobs that the spec has."""
        began = {one.name: one.began for one in self.running}
        fields = recurring(registry)
        return {
            FIELDS[job.name]: _status(registry, job, began.get(job.name))
            for job in self.jobs
            if FIELDS.get(job.name) in fields
        }

    def next_look(self, now: datetime) -> float:
        """Seconds until something may be new."""
        if self.running:
            return SOON
        due = [(job.next - now).total_seconds() + MARGIN for job in self.jobs if job.next is not None]
        return min(LATER, max(min(due, default=LATER), SOON))


def recurring(registry: Registry) -> set[str]:
    """The fields of the jobs that a spec has."""
    return {field for field in FIELDS.values() if getattr(registry.spec, field) is not None}


async def observe_jobs(cluster: Cluster, registry: Registry, manifest: Manifest) -> Report | None:
    """What the server says; None where the spec has no job, or the server does not answer."""
    if not recurring(registry):
        return None
    answer = await cluster.jobs(manifest)
    if answer is None:
        return None
    try:
        return Report.model_validate(answer)
    except ValidationError as error:
        name = f"{registry.metadata.namespace}/{registry.metadata.name}"
        logger.warning("%s: what the server says of its jobs is of another version: %s", name, error)
        return None


def job_status(
    registry: Registry, report: Report | None, before: RegistryStatus, *, is_valid: bool
) -> Mapping[str, JobStatus | None]:
    """The fields of the status: as the server says, or as it was known before, also while the spec is not valid."""
    fields = recurring(registry) if is_valid else set(FIELDS.values())
    told = report.status(registry) if report else {}
    return {field: told.get(field, getattr(before, field)) if field in fields else None for field in FIELDS.values()}


@dataclass(frozen=True, slots=True)
class News:
    """A run that ended since the last look."""

    failed: bool
    reason: str
    message: str


def news(before: RegistryStatus, now: RegistryStatus) -> Iterator[News]:
    """What people want to know: what failed, and what goes well again."""
    for field in FIELDS.values():
        known: JobStatus | None = getattr(before, field)
        status: JobStatus | None = getattr(now, field)
        if status is None or status.last_time is None or (known and known.last_time == status.last_time):
            continue
        name = field.title().replace("_", "")
        if status.last_result == "Failed":
            yield News(True, f"{name}Failed", f"{field.replace('_', ' ')} failed: {status.message}")
        elif known and known.last_result == "Failed":
            yield News(False, f"{name}Succeeded", f"{field.replace('_', ' ')} succeeds again")


async def record_backups(cluster: Cluster, registry: Registry, report: Report) -> None:
    """Have a RegistryBackup of each run that is kept, and of the last that broke off. Raises Unavailable.

    Those of another destination than today's stay as they are.
    """
    job = next((job for job in report.jobs if job.name == "backup"), None)
    backup = registry.spec.backup
    if job is None or backup is None:
        return
    source = placed(backup.destination, registry.metadata)
    namespace = registry.metadata.namespace
    labels = {REGISTRY_LABEL: label_value(registry.metadata.name)}
    live = {
        one["metadata"]["name"]: one
        for one in await cluster.list(REGISTRY_BACKUP, namespace=namespace, labels=labels)
        if one["spec"]["source"] == _dump(source)
    }
    wanted = {backup_name(registry, run): run for run in _recorded(job)}
    try:
        for name, run in wanted.items():
            if live.get(name, {}).get("status") != _dump(_outcome(run)):
                spec = RegistryBackupSpec(registry=registry.metadata.name, run=run.result, source=source)
                await _record(cluster, registry, name, spec, run)
        for name in live.keys() - wanted.keys():
            if _is_gone(live[name]["spec"].get("run"), job):
                key = Key(REGISTRY_BACKUP, namespace, name)
                await cluster.delete(key, uid=live[name]["metadata"]["uid"])
    except Rejected as error:
        logger.warning("%s/%s: a RegistryBackup could not be kept: %s", namespace, registry.metadata.name, error)


def backup_name(registry: Registry, run: Run) -> str:
    """The name of a run's RegistryBackup: by the time of the run, or of its end where it is none."""
    time = run.result.lower() if run.result else f"{run.ended:%Y%m%dt%H%M%Sz}-failed"
    return child_name(registry.metadata.name, f"-{time}")


def _status(registry: Registry, job: _Job, began: datetime | None) -> JobStatus:
    last = job.runs[0] if job.runs else None
    told: dict[str, Any] = {"next_time": job.next, "running_since": began}
    if last is not None:
        told |= {"last_time": last.ended, "last_result": "Failed" if last.error else "Succeeded", "message": last.error}
    if job.name != "backup":
        return JobStatus(**told)
    succeeded = next((run for run in job.runs if run.error is None), None)
    if succeeded is not None:
        told |= {"last_success_time": succeeded.ended, "last_backup": backup_name(registry, succeeded)}
    return BackupJobStatus(**told)


def _recorded(job: _Job) -> Iterator[Run]:
    """The runs of which there shall be RegistryBackups."""
    failures = 0
    for run in job.runs:
        if run.result is None:
            failures += run.error is not None
            if run.error is not None and failures <= FAILURES_KEPT:
                yield run
        elif job.kept is None or run.result in job.kept:
            yield run


def _is_gone(run: str | None, job: _Job) -> bool:
    return run is None or (job.kept is not None and run not in job.kept)


def _outcome(run: Run) -> RegistryBackupStatus:
    held, copied = run.sums.get("held"), run.sums.get("copied")
    return RegistryBackupStatus(
        phase="Failed" if run.error else "Completed",
        message=run.error,
        completion_time=run.ended,
        duration_seconds=round(run.seconds),
        size_bytes=held.bytes if held else None,
        contents=held.count if held else None,
        new_bytes=copied.bytes if copied else None,
    )


async def _record(cluster: Cluster, registry: Registry, name: str, spec: RegistryBackupSpec, run: Run) -> None:
    # Without an owner: it is what a new Registry begins with when this one is gone.
    metadata = {"name": name, "namespace": registry.metadata.namespace, "labels": child_labels(registry.metadata.name)}
    kind = {"apiVersion": REGISTRY_BACKUP.api_version, "kind": REGISTRY_BACKUP.name}
    await cluster.apply({**kind, "metadata": metadata, "spec": _dump(spec)})
    await cluster.patch_status(Key(REGISTRY_BACKUP, registry.metadata.namespace, name), _dump(_outcome(run)))


def _dump(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
