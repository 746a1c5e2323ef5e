"""The blocks of the server's configuration for what it does by itself, and for the backup that it begins with."""

import json
from pathlib import Path, PurePosixPath
from typing import Any, Final

from registry_operator.api.jobs import (
    Archive,
    Backup,
    Bootstrap,
    ClaimArchive,
    GarbageCollection,
    Recurring,
    Retention,
    Scrub,
)
from registry_operator.api.placement import Placement
from registry_operator.api.quantity import amount
from registry_operator.api.registry import Metadata
from registry_operator.plan.facts import ArchiveSecrets
from registry_server import config

BACKUP_KEY: Final = "backup-key"
BOOTSTRAP_KEY: Final = "bootstrap-key"
"""Files beside the configuration."""

DAILY: Final = "24h"
WEEKLY: Final = "168h"


def garbage_collection(settings: GarbageCollection) -> config.GarbageCollection:
    """The block `garbagecollection`."""
    return config.GarbageCollection(
        grace=config.parse_duration(settings.grace), deleteuntagged=settings.delete_untagged, **_when(settings, DAILY)
    )


def retention(settings: Retention) -> config.Retention:
    """The block `retention`."""
    rules = [
        {
            **rule.model_dump(include={"repositories", "tags", "exclude"}, exclude_none=True),
            "keep": {key.replace("_", ""): value for key, value in rule.keep.model_dump(exclude_none=True).items()},
        }
        for rule in settings.retain
    ]
    return config.Retention.model_validate({"rules": rules, **_when(settings, DAILY)})


def scrub(settings: Scrub) -> config.Scrub:
    """The block `scrub`."""
    return config.Scrub.model_validate({"rate": int(amount(settings.rate)), **_when(settings, WEEKLY)})


def backup(settings: Backup, registry: Metadata, placement: Placement, secrets: ArchiveSecrets) -> config.Backup:
    """The block `backup`."""
    given: dict[str, Any] = settings.model_dump(include={"keep", "immediate", "verify"}, exclude_defaults=True)
    if secrets.signing_key is not None:
        given["keyfile"] = _beside_configuration(placement, BACKUP_KEY)
    destination = _destination(settings.destination, registry, placement.backup_directory, secrets)
    return config.Backup.model_validate({"destination": destination, **_when(settings, DAILY), **given})


def bootstrap(
    settings: Bootstrap, registry: Metadata, placement: Placement, secrets: ArchiveSecrets
) -> config.Bootstrap:
    """The block `bootstrap`."""
    assert settings.source is not None  # noqa: S101, `reconcile` has looked up the RegistryBackup
    given: dict[str, Any] = settings.model_dump(include={"run"}, exclude_none=True)
    if secrets.signing_key is not None:
        given["keyfile"] = _beside_configuration(placement, BOOTSTRAP_KEY)
    source = _destination(settings.source, registry, placement.bootstrap_directory, secrets)
    return config.Bootstrap.model_validate({"source": source, **given})


def placed(archive: Archive, registry: Metadata) -> Archive:
    """The same with the path or prefix written out that it has unless given."""
    store = getattr(archive, archive.kind)
    if isinstance(store, ClaimArchive):
        return Archive(claim=store.model_copy(update={"path": store.path or registry.name}))
    prefix = store.prefix or f"/{registry.namespace}/{registry.name}"
    return archive.model_copy(update={archive.kind: store.model_copy(update={"prefix": prefix})})


def folder_of(archive: Archive | None, registry: Metadata) -> dict[str, str] | None:
    """The claim and the folder in it that are to be mounted; None where an archive is in no claim."""
    claim = placed(archive, registry).claim if archive else None
    return None if claim is None else {"claim": claim.name, "path": str(claim.path)}


def _when(settings: Recurring, otherwise: str) -> dict[str, Any]:
    """When it recurs. An older server knows intervals alone, and hears of the rest only where it is asked for."""
    if settings.suspend:
        return {}
    if settings.schedule is None:
        return {"interval": config.parse_duration(settings.interval or otherwise)}
    return {"schedule": settings.schedule} | ({"timezone": settings.time_zone} if settings.time_zone else {})


def _destination(archive: Archive, registry: Metadata, directory: str, secrets: ArchiveSecrets) -> dict[str, Any]:
    """The driver's settings. The keys of credentials are those that `reconcile` has found to be there."""
    archive, given = placed(archive, registry), secrets.credentials
    if s3 := archive.s3:
        settings = {"bucket": s3.bucket, "region": s3.region, "rootdirectory": s3.prefix}
        keys = {"accesskey": given["AWS_ACCESS_KEY_ID"], "secretkey": given["AWS_SECRET_ACCESS_KEY"]} if given else {}
        endpoint = {"regionendpoint": s3.endpoint} if s3.endpoint else {}
        return {"s3": {**settings, **endpoint, "forcepathstyle": s3.force_path_style, **keys}}
    if gcs := archive.gcs:
        key = {"credentials": json.loads(given["key.json"])} if given else {}
        return {"gcs": {"bucket": gcs.bucket, "rootdirectory": gcs.prefix, **key}}
    if azure := archive.azure:
        account = {"accountname": azure.account_name, "accountkey": given["AZURE_STORAGE_KEY"]}
        return {"azure": {**account, "container": azure.container, "rootdirectory": azure.prefix}}
    return {"filesystem": {"rootdirectory": directory}}


def _beside_configuration(placement: Placement, name: str) -> Path:
    return Path(PurePosixPath(placement.config_directory) / name)
