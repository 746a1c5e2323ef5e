"""What the reconcile asks of a cluster. Two engines answer it: `cluster.kubernetes` and `cluster.local`.

Manifests that an engine returns may be its own copy, shared with every reader: never change them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from registry_operator.api.kinds import Kind
from registry_operator.api.placement import Placement

Manifest = dict[str, Any]
"""A Kubernetes object as its JSON reads."""


@dataclass(frozen=True, slots=True)
class Key:
    """One object of one kind."""

    kind: Kind
    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name} {f'{self.namespace}/' if self.namespace else ''}{self.name}"


class Rejected(Exception):
    """The cluster refused a write for good: validation, admission, immutable field or missing permission.

    The message is the cluster's own, readable by a person.
    """


class Unavailable(Exception):
    """The cluster could not be reached or asked to come back later. Worth a retry."""


class Cluster(Protocol):
    """Reads come from a watch cache where the engine has one; writes go through at once."""

    async def get(self, key: Key) -> Manifest | None:
        """The object, or None where there is none."""

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects of a kind that carry all of `labels`."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our field manager, forced: creates or changes. Returns the live object.

        Raises Rejected, Unavailable.
        """

    async def delete(self, key: Key, *, uid: str) -> None:
        """Delete the object if it still is the one with this `uid`. An object already gone is no error."""

    async def patch_status(self, key: Key, status: Mapping[str, Any]) -> None:
        """Replace what we own of the object's status."""

    async def emit_event(
        self, regarding: Manifest, *, kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Record an Event about an object. Only on transitions: nothing aggregates them."""

    async def jobs(self, registry: Manifest) -> Any | None:
        """What this Registry's server says of its jobs (`GET /jobs`), as JSON; None where it does not answer soon."""

    async def images(self, hosts: Collection[str]) -> Collection[str]:
        """The images of registries by these names (`host` or `host:port`) that pods run or shall run, without the
        name: `team/app:v1`, `team/app@sha256:…`. As of some minutes ago. Raises Rejected, Unavailable."""

    def placement(self, registry: Manifest) -> Placement:
        """Where the process of this Registry finds its files and listens."""
