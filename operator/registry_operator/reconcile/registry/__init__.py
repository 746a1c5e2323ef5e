"""One Registry, from what is to what shall be.

observe: tls, accounts, storage, archives ──► plan ──► apply ──► rollout ──► prune ──► jobs ──► status
         each alone may find a Fault: then nothing is changed, and the status says all of them
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from registry_operator.api.kinds import DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, SECRET
from registry_operator.api.names import child_name
from registry_operator.api.placement import Placement
from registry_operator.api.registry import LoginStatus, Metadata, Registry, RegistryStatus
from registry_operator.cluster.protocol import Cluster, Key, Manifest
from registry_operator.plan import ArchiveSecrets, Facts, Login, plan_registry
from registry_operator.plan.registry import certificate_secret_name, claim_name, users_secret_name
from registry_operator.reconcile.apply import ensure, find, key_of, prune
from registry_operator.reconcile.fault import Fault, Faults
from registry_operator.reconcile.registry.accounts import observe_login
from registry_operator.reconcile.registry.archives import began_with, observe_backup, observe_bootstrap, with_bootstrap
from registry_operator.reconcile.registry.images import observe_images
from registry_operator.reconcile.registry.jobs import (
    News,
    Report,
    job_status,
    news,
    observe_jobs,
    record_backups,
    recurring,
)
from registry_operator.reconcile.registry.rollout import Rollout, read_rollout
from registry_operator.reconcile.registry.status import Verdict, judge, previous_status, report
from registry_operator.reconcile.registry.storage import Volume, check_class, observe_volume, phase, storage_status
from registry_operator.reconcile.registry.tls import Tls, observe_tls

RETRY_SECONDS: Final = 60.0
"""Until the next look at what isn't as it shall be. Most causes wake us when they go; this catches the rest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reconcile asks for."""

    requeue_after: float | None = None
    """Seconds until the next look without a cause; None for none."""


async def reconcile_registry(cluster: Cluster, key: Key, *, clock: Callable[[], datetime]) -> Outcome:
    """Makes a Registry's children what they shall be, and tells in its status what they are.

    A Registry that is broken is degraded, with no error raised; one that is gone, or going, is left to the cluster.
    `clock` gives times in UTC. Raises Unavailable.
    """
    manifest = await cluster.get(key)
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return Outcome()
    now = clock()
    reconciliation = _Reconciliation(cluster, manifest)
    await reconciliation.run(now)
    status = reconciliation.status()
    verdicts, told = reconciliation.verdicts(status), reconciliation.news(status)
    await report(cluster, key, manifest, status, verdicts, now, news=told)
    return Outcome(reconciliation.next_look(now))


class _Reconciliation:
    """One pass: what was found on the way. None is what a fault kept from being known."""

    def __init__(self, cluster: Cluster, manifest: Manifest) -> None:
        self.cluster = cluster
        self.manifest = manifest
        self.known = previous_status(manifest)
        self.registry, invalid = _parsed(manifest)
        self.placement = None if invalid else cluster.placement(manifest)
        self.faults = Faults(*invalid)
        self.tls: Tls | None = None
        self.login: Login | None = None
        self.volume: Volume | None = None
        self.backup = self.bootstrap = ArchiveSecrets()
        self.images: tuple[str, ...] = ()
        self.applied = False
        self.jobs: Report | None = None
        self.deployment: Manifest | None = None

    async def run(self, now: datetime) -> None:
        if not self.faults:
            await self._observe(now)
        if not self.faults:
            await self._apply()
        if self.deployment is None:
            with self.faults.collected():
                name = child_name(self.registry.metadata.name)
                self.deployment = await find(self.cluster, DEPLOYMENT, name, self.registry)
        if self.rollout.available:
            self.jobs = await observe_jobs(self.cluster, self.registry, self.manifest)
        if self.jobs is not None:
            await record_backups(self.cluster, self.registry, self.jobs)

    async def _observe(self, now: datetime) -> None:
        assert self.placement is not None  # noqa: S101, without faults all is known
        with self.faults.collected():
            self.tls = await observe_tls(self.cluster, self.registry, self.placement, now)
        with self.faults.collected():
            self.login = await observe_login(self.cluster, self.registry)
        with self.faults.collected():
            self.volume = await observe_volume(self.cluster, self.registry)
        with self.faults.collected():
            self.images = await observe_images(self.cluster, self.registry, self.placement)
        with self.faults.collected():
            self.backup = await observe_backup(self.cluster, self.registry)
        with self.faults.collected():
            self.registry = await with_bootstrap(self.cluster, self.registry, self.known.bootstrap)
            self.bootstrap = await observe_bootstrap(self.cluster, self.registry)

    async def _apply(self) -> None:
        assert self.placement is not None  # noqa: S101, as above
        assert self.tls is not None  # noqa: S101
        assert self.volume is not None  # noqa: S101
        facts = Facts(self.tls.own, self.login, self.volume.access_modes, self.images, self.backup, self.bootstrap)
        desired = plan_registry(self.registry, facts, self.placement)
        with self.faults.collected():
            for child in desired:
                live = await ensure(self.cluster, child, self.registry)
                match key_of(child).kind:
                    case kind if kind == PERSISTENT_VOLUME_CLAIM:
                        self.volume = Volume(self.volume.access_modes, live)
                    case kind if kind == DEPLOYMENT:
                        self.deployment = live
            self.applied = True
            await check_class(self.cluster, self.volume.claim)
            # Pods of the template before may still need what the one after doesn't.
            if self.rollout.complete:
                await prune(self.cluster, desired, self.registry, keep=_named(self.registry))

    @property
    def rollout(self) -> Rollout:
        return read_rollout(self.deployment)

    @property
    def claim(self) -> Manifest | None:
        return self.volume.claim if self.volume else None

    def status(self) -> RegistryStatus:
        """What is known now, and what was known before of what a fault hides."""
        before = RegistryStatus() if self.applied else self.known
        return RegistryStatus(
            address=self.placement.address if self.placement else before.address,
            addresses=_addresses(self.placement) if self.placement else before.addresses,
            version=self.registry.spec.image.effective_tag if self.applied else before.version,
            storage=storage_status(self.claim) if self.claim else before.storage,
            certificate=self.tls.status if self.tls else before.certificate,
            login=LoginStatus(secret_name=users_secret_name(self.registry)) if self.login else before.login,
            bootstrap=began_with(self.registry, self.manifest) if self.applied else before.bootstrap,
            **job_status(self.registry, self.jobs, self.known, is_valid=self.placement is not None),
        )

    def news(self, status: RegistryStatus) -> tuple[News, ...]:
        """What has become of jobs since the last look."""
        return tuple(news(self.known, status)) if self.jobs else ()

    def verdicts(self, status: RegistryStatus) -> tuple[Verdict, ...]:
        """The conditions."""
        rollout, waits_for = self.rollout, None
        if self.claim and phase(self.claim) == "Pending" and not (rollout.available or rollout.complete):
            waits_for = f"a volume: PersistentVolumeClaim {self.claim['metadata']['name']} is Pending"
        return judge(self.faults.as_one(), rollout, status.address, waits_for=waits_for)

    def next_look(self, now: datetime) -> float | None:
        """Seconds until time alone may change something."""
        if self.faults or not self.rollout.complete:
            return RETRY_SECONDS
        looks = []
        if self.tls is not None and self.tls.look_again is not None:
            looks.append(max((self.tls.look_again - now).total_seconds(), 0.0) + 1.0)
        if recurring(self.registry):
            looks.append(self.jobs.next_look(now) if self.jobs else RETRY_SECONDS)
        return min(looks, default=None)


def _parsed(manifest: Manifest) -> tuple[Registry, list[Fault]]:
    """The Registry of a manifest. One that isn't valid has an empty spec, and a fault that says what is wrong."""
    try:
        return Registry.model_validate({**manifest, "status": None}), []
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        bare = Registry(metadata=Metadata.model_validate(manifest["metadata"]))
        return bare, [Fault("InvalidSpec", f"{faults}; correct it, or bring the operator to the version of its CRDs")]


def _addresses(placement: Placement) -> tuple[str, ...]:
    port = placement.address.rpartition(":")[2]
    return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in placement.hosts)


def _named(registry: Registry) -> list[Key]:
    """What the spec names itself. It may well be what was generated before: then it is the user's now."""
    names = [(SECRET, certificate_secret_name(registry)), (SECRET, users_secret_name(registry))]
    names.append((PERSISTENT_VOLUME_CLAIM, claim_name(registry)))
    return [Key(kind, registry.metadata.namespace, name) for kind, name in names if name]
