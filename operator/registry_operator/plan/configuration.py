"""The registry server's configuration for a Registry. Built from the server's own types, never from text."""

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Final

from registry_operator.api.placement import Placement
from registry_operator.api.quantity import amount
from registry_operator.api.registry import Access, Policy, Quota, Registry, RegistrySpec
from registry_operator.plan import jobs
from registry_operator.plan.facts import Facts
from registry_server import config

ADMIN: Final = "admin"
"""The user of the generated login."""

DRAIN: Final = timedelta(seconds=60)
"""How long a server that stops waits for requests in flight."""

CONFIG_FILE: Final = "config.yml"
EVERYWHERE: Final = ("**",)


def server_config(registry: Registry, facts: Facts, placement: Placement) -> config.Config:
    """What the server of this Registry is told. Depends on the place in its addresses and paths alone."""
    spec = registry.spec
    told = config.Config(
        version="0.1",
        log=config.Log(level=spec.log.level, formatter="json"),
        storage=config.Storage(
            filesystem=config.Filesystem(rootdirectory=Path(placement.data_directory)),
            delete=config.Delete(enabled=True),
        ),
        http=_http(spec, placement),
        auth=config.Auth(
            htpasswd=config.Htpasswd(
                realm=f"Registry {registry.metadata.name}", path=_within(placement.auth_directory, "htpasswd")
            )
        ),
        access=config.Access(policies=_policies(spec.access)),
        shutdown=config.Shutdown(notice=placement.notice),
    )
    # A server of an older version knows nothing of these: it hears of them only where they are asked for.
    asked: dict[str, object] = {}
    if spec.quotas:
        asked["quotas"] = tuple(map(_quota, spec.quotas))
    if spec.retention:
        asked["retention"] = jobs.retention(spec.retention)
    if facts.in_use:
        asked["inuse"] = facts.in_use
    if spec.garbage_collection:
        asked["garbagecollection"] = jobs.garbage_collection(spec.garbage_collection)
    if spec.backup:
        asked["backup"] = jobs.backup(spec.backup, registry.metadata, placement, facts.backup)
    if spec.scrub:
        asked["scrub"] = jobs.scrub(spec.scrub)
    if spec.bootstrap:
        asked["bootstrap"] = jobs.bootstrap(spec.bootstrap, registry.metadata, placement, facts.bootstrap)
    return told.model_copy(update=asked)


def _http(spec: RegistrySpec, placement: Placement) -> config.HTTP:
    # Relative URLs hold behind whatever ends TLS or renames the host in front of the registry.
    settings = {
        "addr": placement.listen,
        "relativeurls": True,
        "headers": {"X-Content-Type-Options": ("nosniff",)},
        "draintimeout": DRAIN,
        "debug": config.Debug.model_validate(
            {"addr": placement.debug_listen, "prometheus": config.Prometheus(enabled=True)}
        ),
    }
    if spec.tls.disabled is None:
        settings["tls"] = config.TLS(
            certificate=_within(placement.tls_directory, "tls.crt"), key=_within(placement.tls_directory, "tls.key")
        )
    return config.HTTP.model_validate(settings)


def _policies(access: Access) -> tuple[config.Policy, ...]:
    """The policies as given, and those that stand for the short forms around them."""
    policies = []
    if access.anonymous == "pull":
        policies.append(config.Policy(subjects=("anonymous",), repositories=EVERYWHERE, actions=("pull",)))
    if access.htpasswd is None:
        policies.append(config.Policy(subjects=(f"user:{ADMIN}",), repositories=EVERYWHERE, role="admin"))
    elif access.policies is None:
        policies.append(config.Policy(subjects=("authenticated",), repositories=EVERYWHERE, role="admin"))
    policies.extend(_policy(policy) for policy in access.policies or ())
    return tuple(policies)


def _policy(policy: Policy) -> config.Policy:
    return config.Policy.model_validate(policy.model_dump(exclude_none=True))


def _quota(quota: Quota) -> config.Quota:
    settings = quota.model_dump(exclude_none=True, exclude_defaults=True)
    if quota.bytes is not None:
        settings["bytes"] = int(amount(quota.bytes))
    return config.Quota.model_validate(settings)


def _within(directory: str, name: str) -> Path:
    return Path(PurePosixPath(directory) / name)
