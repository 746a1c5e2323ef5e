"""From a Registry to its children. Pure: the same Registry, facts and placement give the same manifests."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Final

from registry_operator.api.names import (
    METRICS,
    OPERATOR_LABELS,
    REGISTRY_LABEL,
    child_labels,
    child_name,
    label_value,
)
from registry_operator.api.placement import Placement
from registry_operator.api.registry import Registry
from registry_operator.plan import jobs
from registry_operator.plan.configuration import CONFIG_FILE, DRAIN, server_config
from registry_operator.plan.facts import Facts, Login, OwnTls
from registry_operator.plan.render import Manifest, render
from registry_server import config

CONFIG, ADMIN_LOGIN, TLS, AUTHORITY, DATA = "-config", "-admin", "-tls", "-ca", "-data"
"""Endings of the children's names."""

LOGIN_CHECKED: Final = "regatta.dev/login-checked"
"""Annotation of the generated login's Secret: the digest of a password and hash that match. It spares many a bcrypt."""

UNSETTLED: Final = ("quotas", "inuse", "retention", "backup", "scrub", "bootstrap")
"""Blocks of the configuration that need no start: followed like `access`, or of no matter to who serves already."""

SOON, WHEN_RESTORED = 300, 86_400
"""Seconds that a rollout may go on for without any progress: a registry that begins with a backup is long in coming."""

MARGIN_SECONDS: Final = 10
"""Between the moment a server has ended at the latest and the one it is killed at."""


def plan_registry(registry: Registry, facts: Facts, placement: Placement) -> list[Manifest]:
    """The children of a Registry in the order of applying: what a pod mounts comes before the pod.

    `facts` hold `own_tls` and `login` where the spec asks for them.
    """
    plan = _Plan(registry, facts, placement)
    return [
        plan.service_account(),
        plan.config_secret(),
        *([plan.login_secret(facts.login)] if facts.login else []),
        *(plan.own_tls(facts.own_tls) if facts.own_tls else []),
        *([plan.claim()] if plan.makes_claim else []),
        plan.service(),
        plan.metrics_service(),
        *([plan.network_policy()] if registry.spec.network_policy.enabled else []),
        plan.deployment(),
    ]


def claim_name(registry: Registry) -> str:
    """The claim with the content: the one that exists, or ours."""
    filesystem = registry.spec.storage.filesystem
    return (filesystem and filesystem.existing_claim) or child_name(registry.metadata.name, DATA)


def certificate_secret_name(registry: Registry) -> str | None:
    """The Secret with the server's certificate: the one given, or ours; None without TLS."""
    tls = registry.spec.tls
    if tls.disabled is not None:
        return None
    return tls.secret_ref.name if tls.secret_ref else child_name(registry.metadata.name, TLS)


def users_secret_name(registry: Registry) -> str:
    """The Secret with the server's users: the one given, or the generated login's."""
    htpasswd = registry.spec.access.htpasswd
    return htpasswd.secret_ref.name if htpasswd else child_name(registry.metadata.name, ADMIN_LOGIN)


def login_digest(login: Login) -> str:
    """Tells one login from another. Nobody guesses the password by it who can't read the hash beside it."""
    text = "\0".join((login.username, login.password, login.htpasswd))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Plan:
    registry: Registry
    facts: Facts
    placement: Placement

    @property
    def makes_claim(self) -> bool:
        filesystem = self.registry.spec.storage.filesystem
        return filesystem is not None and filesystem.existing_claim is None

    @cached_property
    def config(self) -> config.Config:
        return server_config(self.registry, self.facts, self.placement)

    @cached_property
    def config_text(self) -> str:
        return config.dump(self.config)

    @property
    def debug_port(self) -> int:
        """Of health and metrics."""
        debug = self.config.http.debug
        assert debug is not None  # noqa: S101, every server of ours has one
        return debug.addr.port

    @property
    def config_hash(self) -> str:
        """Changes with what takes a start to take effect, unlike what a running server follows."""
        settled = self.config.model_copy(update={"access": None})
        settled.model_fields_set.difference_update(UNSETTLED)  # as if there were none: they are left out then
        return hashlib.sha256(config.dump(settled).encode()).hexdigest()[:16]

    @property
    def selector(self) -> dict[str, str]:
        """Labels that only this Registry's pods have. A Deployment's selector can never change."""
        return {"app.kubernetes.io/name": "registry", REGISTRY_LABEL: label_value(self.registry.metadata.name)}

    def name(self, suffix: str = "") -> str:
        return child_name(self.registry.metadata.name, suffix)

    def metadata(
        self, suffix: str = "", *, owned: bool = True, annotations: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The metadata of a child. Owned children go with the Registry."""
        return {
            "name": self.name(suffix),
            "namespace": self.registry.metadata.namespace,
            "labels": child_labels(self.registry.metadata.name),
            "annotations": annotations or None,
            "ownerReferences": [self.owner_reference] if owned else None,
        }

    @property
    def owner_reference(self) -> dict[str, Any]:
        kind, metadata = self.registry.resource, self.registry.metadata
        reference = {"apiVersion": kind.api_version, "kind": kind.name, "name": metadata.name, "uid": metadata.uid}
        return {**reference, "controller": True}

    def service_account(self) -> Manifest:
        return render("service_account", metadata=self.metadata())

    def config_secret(self) -> Manifest:
        keys = {jobs.BACKUP_KEY: self.facts.backup.signing_key, jobs.BOOTSTRAP_KEY: self.facts.bootstrap.signing_key}
        files = {CONFIG_FILE: self.config_text} | {name: key for name, key in keys.items() if key is not None}
        return render("config_secret", metadata=self.metadata(CONFIG), files=files)

    def login_secret(self, login: Login) -> Manifest:
        checked = {LOGIN_CHECKED: login_digest(login)}
        return render("login_secret", metadata=self.metadata(ADMIN_LOGIN, annotations=checked), login=login)

    def own_tls(self, tls: OwnTls) -> list[Manifest]:
        return [
            render("authority_secret", metadata=self.metadata(AUTHORITY), authority=tls.authority),
            render("authority_config_map", metadata=self.metadata(AUTHORITY), authority=tls.authority),
            render("tls_secret", metadata=self.metadata(TLS), authority=tls.authority, server=tls.server),
        ]

    def claim(self) -> Manifest:
        filesystem = self.registry.spec.storage.filesystem
        return render("claim", metadata=self.metadata(DATA, owned=False), filesystem=filesystem)

    def service(self) -> Manifest:
        service = self.registry.spec.service
        metadata = self.metadata(annotations=service.annotations)
        tls = self.registry.spec.tls.disabled is None
        return render("service", metadata=metadata, service=service, selector=self.selector, tls=tls)

    def metrics_service(self) -> Manifest:
        return render("metrics_service", metadata=self.metadata(METRICS), selector=self.selector, port=self.debug_port)

    def network_policy(self) -> Manifest:
        operator = self.placement.operator
        return render(
            "network_policy",
            metadata=self.metadata(),
            selector=self.selector,
            port=self.config.http.addr.port,
            debug_port=self.debug_port,
            policy=self.registry.spec.network_policy.model_dump(by_alias=True, exclude_none=True),
            operator={"namespace": operator, "labels": OPERATOR_LABELS} if operator else None,
        )

    def deployment(self) -> Manifest:
        spec = self.registry.spec
        return render(
            "deployment",
            metadata=self.metadata(),
            spec=spec,
            scheduling=spec.scheduling.model_dump(by_alias=True, exclude_none=True),
            resources=spec.resources.model_dump(by_alias=True, exclude_none=True),
            selector=self.selector,
            labels=child_labels(self.registry.metadata.name),
            service_account=self.name(),
            config_hash=self.config_hash,
            config_file=str(PurePosixPath(self.placement.config_directory) / CONFIG_FILE),
            port=self.config.http.addr.port,
            debug_port=self.debug_port,
            placement=self.placement,
            config_secret=self.name(CONFIG),
            tls_secret=certificate_secret_name(self.registry),
            users_secret=users_secret_name(self.registry),
            claim=claim_name(self.registry),
            backup=jobs.folder_of(spec.backup.destination if spec.backup else None, self.registry.metadata),
            bootstrap=jobs.folder_of(spec.bootstrap.source if spec.bootstrap else None, self.registry.metadata),
            deadline_seconds=WHEN_RESTORED if spec.bootstrap else SOON,
            several_nodes="ReadWriteMany" in self.facts.access_modes,
            grace_seconds=int((self.placement.notice + DRAIN).total_seconds()) + MARGIN_SECONDS,
        )
