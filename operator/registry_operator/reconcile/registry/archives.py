"""What opens the archives of backups: claims that are there, credentials and keys that say something."""

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from registry_operator.api.backup import RegistryBackup
from registry_operator.api.jobs import Archive
from registry_operator.api.kinds import PERSISTENT_VOLUME_CLAIM, REGISTRY_BACKUP, SECRET
from registry_operator.api.registry import BootstrapStatus, Registry
from registry_operator.api.values import SecretReference
from registry_operator.cluster.protocol import Cluster, Key, Manifest
from registry_operator.plan import ArchiveSecrets
from registry_operator.plan.registry import claim_name
from registry_operator.reconcile.fault import Fault

SIGNING_KEY: Final = "key"
SHORTEST_KEY: Final = 16
"""Bytes of a key, as the server asks for."""


async def observe_backup(cluster: Cluster, registry: Registry) -> ArchiveSecrets:
    """What opens `backup.destination`. Raises Fault."""
    backup = registry.spec.backup
    if backup is None:
        return ArchiveSecrets()
    archive = _Archive(cluster, registry, "backup.destination", backup.destination)
    return await archive.observe(backup.signing_key, "backup.signingKey")


async def with_bootstrap(cluster: Cluster, registry: Registry, began: BootstrapStatus | None) -> Registry:
    """The Registry with `source` and `run` of its bootstrap in place of the RegistryBackup it names. Raises Fault.

    `began` is what it began with: that counts once and for all, as runs come and go.
    """
    bootstrap = registry.spec.bootstrap
    if bootstrap is None or bootstrap.backup is None:
        return registry
    if began is None:
        began = await _begin_with(cluster, registry, bootstrap.backup.name)
    settled = bootstrap.model_copy(update={"backup": None, "source": began.source, "run": began.run})
    return registry.model_copy(update={"spec": registry.spec.model_copy(update={"bootstrap": settled})})


async def _begin_with(cluster: Cluster, registry: Registry, name: str) -> BootstrapStatus:
    found = await cluster.get(Key(REGISTRY_BACKUP, registry.metadata.namespace, name))
    if found is None:
        raise Fault(
            "BackupMissing", f"bootstrap.backup: there is no RegistryBackup {name}: name another, or the source"
        )
    backup = RegistryBackup.model_validate({**found, "status": None})
    if backup.spec.run is None:
        raise Fault("BackupIncomplete", f"bootstrap.backup: {name} broke off before it was a run: name another")
    return BootstrapStatus(source=backup.spec.source, run=backup.spec.run)


def began_with(settled: Registry, manifest: Manifest) -> BootstrapStatus | None:
    """What a Registry begins with that names a RegistryBackup in its `manifest`; `settled` has it by now."""
    bootstrap = settled.spec.bootstrap
    if bootstrap is None or bootstrap.source is None or "backup" not in manifest["spec"]["bootstrap"]:
        return None
    return BootstrapStatus(source=bootstrap.source, run=bootstrap.run)


async def observe_bootstrap(cluster: Cluster, registry: Registry) -> ArchiveSecrets:
    """What opens `bootstrap.source`. Raises Fault."""
    bootstrap = registry.spec.bootstrap
    if bootstrap is None or bootstrap.source is None:
        return ArchiveSecrets()
    archive = _Archive(cluster, registry, "bootstrap.source", bootstrap.source)
    return await archive.observe(bootstrap.signing_key, "bootstrap.signingKey")


class _Archive:
    """One, and where the spec names it."""

    def __init__(self, cluster: Cluster, registry: Registry, where: str, archive: Archive) -> None:
        self._cluster = cluster
        self._registry = registry
        self._where = where
        self._archive = archive

    async def observe(self, signing_key: SecretReference | None, key_where: str) -> ArchiveSecrets:
        if self._archive.claim is not None:
            await self._check_claim(self._archive.claim.name)
        given = self._archive.credentials
        credentials = await self._credentials(given) if given else {}
        return ArchiveSecrets(credentials, await self._signing_key(key_where, signing_key) if signing_key else None)

    async def _credentials(self, secret: SecretReference) -> dict[str, str]:
        where = f"{self._where}.{self._archive.kind}.credentials"
        found = await self._texts(where, secret.name, self._credential_keys)
        if "key.json" in found and not _is_document(found["key.json"]):
            raise Fault(
                "BackupSecretInvalid",
                f"{where}: key.json of Secret {secret.name} isn't the JSON key of a service account: put that there",
            )
        return found

    async def _signing_key(self, where: str, secret: SecretReference) -> str:
        key = (await self._texts(where, secret.name, [SIGNING_KEY]))[SIGNING_KEY]
        if len(key.encode()) < SHORTEST_KEY:
            raise Fault(
                "BackupKeyInvalid",
                f"{where}: the key of Secret {secret.name} has less than {SHORTEST_KEY} bytes: make one by "
                "`openssl rand -hex 32`",
            )
        return key

    @property
    def _credential_keys(self) -> Sequence[str]:
        if self._archive.s3:
            return ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return ("key.json",) if self._archive.gcs else ("AZURE_STORAGE_KEY",)

    async def _check_claim(self, name: str) -> None:
        if name == claim_name(self._registry):
            raise Fault(
                "BackupClaimOwn",
                f"{self._where}.claim: {name} is the registry's own volume, with which a backup would be lost: "
                "name another claim",
            )
        claim = await self._cluster.get(Key(PERSISTENT_VOLUME_CLAIM, self._registry.metadata.namespace, name))
        if claim is None:
            raise Fault(
                "BackupClaimMissing",
                f"{self._where}.claim: there is no PersistentVolumeClaim {name}: create it, on other disks than the "
                "registry's",
            )

    async def _texts(self, where: str, name: str, keys: Sequence[str]) -> dict[str, str]:
        """The texts of a Secret."""
        secret = await self._cluster.get(Key(SECRET, self._registry.metadata.namespace, name))
        if secret is None:
            raise Fault(
                "BackupSecretMissing", f"{where}: there is no Secret {name}: create it with {' and '.join(keys)}"
            )
        data = secret.get("data") or {}
        if missing := [key for key in keys if not data.get(key)]:
            raise Fault("BackupSecretInvalid", f"{where}: Secret {name} has no {' and no '.join(missing)}: add it")
        try:
            return {key: b64decode(data[key]).decode().strip() for key in keys}
        except ValueError:
            raise Fault(
                "BackupSecretInvalid", f"{where}: Secret {name}: {' or '.join(keys)} isn't a text in UTF-8"
            ) from None


def _is_document(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
