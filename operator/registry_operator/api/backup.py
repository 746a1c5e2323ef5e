"""`RegistryBackup`: a run of a backup, as it went. The operator makes one of each; a new Registry can begin with it."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from registry_operator.api.jobs import Archive
from registry_operator.api.kinds import REGISTRY_BACKUP, Kind
from registry_operator.api.model import Model, Resource, Rule
from registry_operator.api.registry import Metadata
from registry_operator.api.values import ObjectName, RunName


class RegistryBackupSpec(Model):
    """Which run it is, and where."""

    registry: ObjectName
    """Name of the Registry that was backed up, in this namespace."""
    run: RunName | None = None
    """The run; absent where it broke off before it was one."""
    source: Archive
    """Where its copies are, with the path or prefix written out."""

    rules: ClassVar = (Rule("self == oldSelf", "a run of a backup is as it was: it can't be changed"),)


class RegistryBackupStatus(Model):
    """How the run went."""

    phase: Literal["Completed", "Failed"]
    """Whether all is kept."""
    message: str | None = None
    """Why it failed."""
    completion_time: datetime
    """When it ended."""
    duration_seconds: Annotated[int, Field(ge=0)]
    """How long it took."""
    size_bytes: int | None = None
    """Bytes of all that it has kept."""
    contents: int | None = None
    """How many contents that are: layers, configurations and manifests."""
    new_bytes: int | None = None
    """Bytes that no run before had copied."""


class RegistryBackup(Resource):
    """A run of a Registry's backup. It is there as long as the run is kept, also when the Registry is gone."""

    resource: ClassVar[Kind] = REGISTRY_BACKUP
    singular: ClassVar[str] = "registrybackup"
    short_names: ClassVar[tuple[str, ...]] = ("regbackup",)
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Registry", "string", ".spec.registry"),
        ("Phase", "string", ".status.phase"),
        ("Run", "string", ".spec.run"),
        ("Bytes", "integer", ".status.sizeBytes"),
        ("New", "integer", ".status.newBytes"),
        ("Seconds", "integer", ".status.durationSeconds"),
        ("Completed", "date", ".status.completionTime"),
    )

    metadata: Metadata
    spec: RegistryBackupSpec
    """Which run it is, and where."""
    status: RegistryBackupStatus | None = None
    """How the run went. Written by the operator alone."""
