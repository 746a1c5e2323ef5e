"""From kopf's watches to the queue: every event goes into the cache, and its Registry's key into the queue.

Only kopf's stateless half is used (`on.event`): it leaves no annotation, no finalizer and no status behind.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import kopf

from registry_operator.api.kinds import CHILDREN, REGISTRY, Kind
from registry_operator.api.names import REGISTRY_LABEL, label_value
from registry_operator.cluster.kubernetes.api import REQUEST_SECONDS, SILENCE_SECONDS, Api
from registry_operator.cluster.kubernetes.cluster import KubernetesCluster, selector_of
from registry_operator.cluster.protocol import Key, Manifest

LOGIN_SECONDS: Final = 10.0


def owner_of(cluster: KubernetesCluster, kind: Kind, manifest: Manifest) -> Key | None:
    """The key of the Registry that a child belongs to (of a Registry: its own), or None for what belongs to none.

    By ownerReference; by label for what has none, such as a claim, which outlives its Registry.
    """
    metadata = manifest["metadata"]
    namespace = metadata.get("namespace")
    if kind == REGISTRY:
        return Key(REGISTRY, namespace, metadata["name"])
    for reference in metadata.get("ownerReferences", ()):
        if reference["kind"] == REGISTRY.name and reference["apiVersion"] == REGISTRY.api_version:
            return Key(REGISTRY, namespace, reference["name"])
    if (value := metadata.get("labels", {}).get(REGISTRY_LABEL)) is None:
        return None
    if cluster.cache.get(named := Key(REGISTRY, namespace, value)) is not None:
        return named
    names = (registry["metadata"]["name"] for registry in cluster.cache.select(REGISTRY, namespace=namespace))
    return next((Key(REGISTRY, namespace, name) for name in names if label_value(name) == value), None)


def wake_owners(
    cluster: KubernetesCluster, kind: Kind, manifests: Iterable[Manifest], wake: Callable[[Key], None]
) -> None:
    """Wake the Registries that these objects belong to."""
    for manifest in manifests:
        if (owner := owner_of(cluster, kind, manifest)) is not None:
            wake(owner)


def handlers(
    cluster: KubernetesCluster, *, wake: Callable[[Key], None], relisted: Callable[[], None]
) -> kopf.OperatorRegistry:
    """The handlers for kopf: one event handler for each kind, and the login.

    `wake` is called with the key of each Registry to reconcile, `relisted` when kopf has lost a watch and lists anew:
    deletions in between are not reported.
    """
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry, retries=None, backoff=LOGIN_SECONDS)(_login(cluster.api))
    for kind in (REGISTRY, *CHILDREN):
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group, version, kind.plural, registry=registry, id=kind.plural)(
            _on_event(cluster, kind, wake=wake, relisted=relisted)
        )
    return registry


def settings() -> kopf.OperatorSettings:
    """kopf's settings: what to watch, and how soon to notice that a watch is dead."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.watching.server_timeout = 300
    chosen.watching.inactivity_timeout = SILENCE_SECONDS
    chosen.watching.connect_timeout = REQUEST_SECONDS
    chosen.watching.chunk_size = 500
    chosen.watching.reconnect_backoff = 1.0
    chosen.queueing.idle_timeout = 1.0
    chosen.queueing.exit_timeout = 1.0
    chosen.networking.request_timeout = 2 * REQUEST_SECONDS
    chosen.process.ultimate_exiting_timeout = None
    chosen.persistence.diffbase_storage = _NoDiff()
    for kind in CHILDREN:
        group, _, version = kind.api_version.rpartition("/")
        chosen.watching.label_selectors[group, version, kind.plural] = selector_of(kind)
    return chosen


class _NoDiff(kopf.DiffBaseStorage):
    """Spares kopf a deep copy of every object of every event, for a difference that no handler of ours looks at."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


def _on_event(
    cluster: KubernetesCluster, kind: Kind, *, wake: Callable[[Key], None], relisted: Callable[[], None]
) -> Callable[..., Awaitable[None]]:
    async def on_event(event: Any, **_: Any) -> None:
        manifest = event["object"]
        if event["type"] is None:
            relisted()
        news = (
            cluster.cache.forget(kind, manifest)
            if event["type"] == "DELETED"
            else cluster.cache.observe(kind, manifest)
        )
        if news:
            wake_owners(cluster, kind, (manifest,), wake)

    return on_event


def _login(api: Api) -> Callable[..., Awaitable[kopf.ConnectionInfo]]:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """The same credentials as ours, read anew whenever the API server has refused the old ones."""
        configuration = api.configuration
        header: str = await configuration.get_api_key_with_prefix("BearerToken") or ""
        scheme, _space, token = header.partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            proxy_url=configuration.proxy,
            default_namespace=api.default_namespace,
            trust_env=False,
        )

    return login
