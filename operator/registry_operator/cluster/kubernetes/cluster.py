"""`KubernetesCluster`: the `Cluster` protocol over an API server, with reads from a cache."""

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Literal

from registry_operator.api.kinds import CHILDREN, REGISTRY, Kind
from registry_operator.api.names import FIELD_MANAGER, METRICS, REGISTRY_LABEL, child_name
from registry_operator.api.placement import Placement
from registry_operator.cluster.asking import ask
from registry_operator.cluster.kubernetes.api import APPLY, Api, Refusal, path
from registry_operator.cluster.kubernetes.cache import Cache
from registry_operator.cluster.kubernetes.foreign import References
from registry_operator.cluster.kubernetes.images import PodImages
from registry_operator.cluster.protocol import Cluster, Key, Manifest, Rejected, Unavailable

OURS: Final = {"app.kubernetes.io/managed-by": "regatta"}
CLUSTER_DOMAIN: Final = "cluster.local"
DEFAULT_PORT: Final = 5000
DEBUG_PORT: Final = 5001
"""Of health, metrics and jobs."""
JOBS_URL: Final = f"http://{{service}}.{{namespace}}.svc:{DEBUG_PORT}/jobs"
ENDPOINTS_LAG: Final = timedelta(seconds=5)
"""Until every node knows that a pod is no endpoint of its Service any more."""
CONTROLLER: Final = "regatta.dev/operator"
EVENT: Final = Kind("events.k8s.io/v1", "Event", "events")
NOTE_BYTES: Final = 1024
"""The API server's bound on an Event's note."""

_KINDS: Final = {(kind.api_version, kind.name): kind for kind in (REGISTRY, *CHILDREN)}

logger = logging.getLogger(__name__)


def selector_of(kind: Kind) -> str:
    """The label selector of what we cache of a kind: all Registries, and of the rest what is ours."""
    return "" if kind == REGISTRY else ",".join(f"{name}={value}" for name, value in OURS.items())


class KubernetesCluster(Cluster):
    """Reads come from a cache that `runtime` feeds, and from the API server for what is not ours.

    Manifests returned are shared with the cache: never change them.
    """

    def __init__(self, api: Api, *, namespaces: Sequence[str] = (), jobs_url: str = JOBS_URL) -> None:
        """`jobs_url` is where servers tell of their jobs, with `{service}` and `{namespace}` in place of names."""
        self.api: Final = api
        self._jobs_url: Final = jobs_url
        self._images: Final = PodImages(api, tuple(namespaces) or (None,))
        self.namespaces: Final[tuple[str | None, ...]] = tuple(namespaces) or (None,)
        self.cache: Final = Cache((REGISTRY, *CHILDREN), index_label=REGISTRY_LABEL)
        self.references: Final = References()

    async def get(self, key: Key) -> Manifest | None:
        """The object, or None where there is none. What the cache lacks may exist all the same, as somebody else's."""
        if key.kind in self.cache.kinds and (cached := self.cache.get(key)) is not None:
            return cached
        self.references.note(key)
        try:
            return await self.api.request("GET", path(key.kind, key.namespace, key.name))
        except Refusal as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The objects of a kind that carry all of `labels`; of the children's kinds only ours."""
        if kind in self.cache.kinds:
            return self.cache.select(kind, namespace=namespace, labels=labels)
        selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        items, _ = await self.api.list_all(kind, namespace, selector=selector)
        return items

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our field manager, forced."""
        kind = _kind_of(manifest)
        metadata = manifest["metadata"]
        live = await self._apply(path(kind, metadata.get("namespace"), metadata["name"]), manifest)
        self._remember(kind, live)
        return live

    async def delete(self, key: Key, *, uid: str) -> None:
        """Delete the object if it still is the one with this `uid`."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            answer = await self.api.request("DELETE", path(key.kind, key.namespace, key.name), body=body)
        except Refusal as error:
            if error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                return
            raise
        if key.kind not in self.cache.kinds:
            return
        if answer.get("kind") == key.kind.name:
            # A finalizer holds it; the answer carries its deletionTimestamp.
            self._remember(key.kind, answer)
        elif (cached := self.cache.get(key)) and cached["metadata"]["uid"] == uid:
            self.cache.forget(key.kind, cached)

    async def patch_status(self, key: Key, status: Mapping[str, Any]) -> None:
        """Replace what we own of the object's status. An object that is gone is no error."""
        manifest = {
            "apiVersion": key.kind.api_version,
            "kind": key.kind.name,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": dict(status),
        }
        try:
            live = await self._apply(path(key.kind, key.namespace, key.name, "status"), manifest)
        except Refusal as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return
            raise
        self._remember(key.kind, live)

    async def emit_event(
        self, regarding: Manifest, *, kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Record an Event about an object. It is a courtesy: where it cannot be recorded, the log has it."""
        metadata = regarding["metadata"]
        namespace = metadata.get("namespace", "default")
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"generateName": f"{metadata['name'][:200]}-", "namespace": namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": os.environ.get("POD_NAME") or socket.gethostname(),
            "action": "Reconcile",
            "type": kind,
            "reason": reason,
            "note": _shortened(message),
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": metadata["name"],
                "namespace": namespace,
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
        }
        try:
            await self.api.request("POST", path(EVENT, namespace), body=event)
        except (Rejected, Unavailable) as error:
            logger.warning(
                "%s/%s: an Event could not be recorded (%s): %s: %s",
                namespace,
                metadata["name"],
                error,
                reason,
                message,
            )

    async def jobs(self, registry: Manifest) -> Any | None:
        """What this Registry's server says of its jobs, asked by way of the Service of its metrics."""
        names = {
            "service": child_name(registry["metadata"]["name"], METRICS),
            "namespace": registry["metadata"]["namespace"],
        }
        return await ask(self._jobs_url.format_map(names))

    async def images(self, hosts: Collection[str]) -> Collection[str]:
        """The images of registries by these names that pods run or shall run."""
        return await self._images.of(hosts)

    def placement(self, registry: Manifest) -> Placement:
        """The paths inside the pod, and the names of its Service."""
        namespace = registry["metadata"]["namespace"]
        service = child_name(registry["metadata"]["name"])
        port = registry.get("spec", {}).get("service", {}).get("port", DEFAULT_PORT)
        return Placement(
            config_directory="/etc/regatta",
            tls_directory="/etc/regatta/tls",
            auth_directory="/etc/regatta/auth",
            data_directory="/var/lib/registry",
            backup_directory="/var/lib/regatta/backup",
            bootstrap_directory="/var/lib/regatta/bootstrap",
            listen=":5000",
            debug_listen=f":{DEBUG_PORT}",
            operator=self.api.default_namespace,
            notice=ENDPOINTS_LAG,
            hosts=(
                service,
                f"{service}.{namespace}",
                f"{service}.{namespace}.svc",
                f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}",
            ),
            address=f"{service}.{namespace}.svc:{port}",
        )

    @contextlib.contextmanager
    def reconciling(self, key: Key) -> Iterator[None]:
        """Within, reads of other people's objects are kept in mind as what `key` depends on."""
        with self.references.reading(key):
            yield

    async def relist(self, kind: Kind) -> Sequence[Manifest]:
        """Replace the cache of a kind by what a LIST says. Returns what the watches had missed.

        Raises Rejected, Unavailable.
        """
        missed: Sequence[Manifest] = []
        for namespace in self.namespaces:
            manifests, version = await self.api.list_all(kind, namespace, selector=selector_of(kind))
            missed = [*missed, *self.cache.replace(kind, manifests, version=version, namespace=namespace)]
        return missed

    async def _apply(self, where: str, manifest: Mapping[str, Any]) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self.api.request("PATCH", where, query=query, body=manifest, content_type=APPLY)

    def _remember(self, kind: Kind, live: Manifest) -> None:
        """Keep the answer to a write if the watches show the object, too: else nothing would ever take it away."""
        ours = OURS.items() <= live["metadata"].get("labels", {}).items()
        if kind == REGISTRY or (kind in self.cache.kinds and ours):
            self.cache.remember(kind, live)


def _kind_of(manifest: Manifest) -> Kind:
    try:
        return _KINDS[manifest["apiVersion"], manifest["kind"]]
    except KeyError:
        raise ValueError(f"{manifest['apiVersion']} {manifest['kind']} is not a kind that Regatta writes") from None


def _shortened(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= NOTE_BYTES:
        return text
    return encoded[: NOTE_BYTES - 3].decode(errors="ignore") + "…"
