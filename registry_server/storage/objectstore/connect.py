"""From the configuration of an object store to obstore's clients of it."""

import ipaddress
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, S3Store

from registry_server.config import GCS, S3, Azure, Drivers, Storage
from registry_server.storage.contract import StorageRefused
from registry_server.storage.objectstore import azure
from registry_server.storage.objectstore.bucket import Clients, Objects

CONNECTED_WITHIN: Final = timedelta(seconds=3)
ANSWERED_WITHIN: Final = timedelta(seconds=20)
"""For small requests."""
TRANSFERRED_WITHIN: Final = timedelta(days=1)
"""For content: what binds is `STALLED`."""
STALLED: Final = timedelta(minutes=2)
"""How long the store may be silent in the middle of a transfer, or while it puts parts together."""
COPIED_WITHIN: Final = timedelta(minutes=15)
"""For a copy of up to 4 GiB that the store makes by itself, silent until it is done."""
RETRIES: Final = 4
RETRIED_FOR: Final = timedelta(seconds=10)
"""A client waits meanwhile, so not for long; content is given more time."""
CONTENT_RETRIED_FOR: Final = timedelta(minutes=2)
BACKOFF: Final = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2}


def connect(storage: Drivers) -> Clients:
    """The clients of the object store that is configured. Makes no request."""
    redirect = isinstance(storage, Storage) and not storage.redirect.disable
    if storage.s3 is not None:
        return _s3(storage.s3, redirect=redirect)
    if storage.gcs is not None:
        return _gcs(storage.gcs, redirect=redirect)
    assert storage.azure is not None  # noqa: S101  (the configuration has exactly one driver)
    return _azure(storage.azure, redirect=redirect)


def _s3(settings: S3, *, redirect: bool) -> Clients:
    config: dict[str, Any] = {"region": settings.region}
    if settings.accesskey.get_secret_value():
        config["access_key_id"] = settings.accesskey.get_secret_value()
        config["secret_access_key"] = settings.secretkey.get_secret_value()
        if settings.sessiontoken.get_secret_value():
            config["session_token"] = settings.sessiontoken.get_secret_value()
    if settings.encrypt:
        config["server_side_encryption"] = "aws:kms" if settings.keyid else "AES256"
        if settings.keyid:
            config["sse_kms_key_id"] = settings.keyid
    plain = settings.storageclass in ("NONE", "STANDARD")

    def client(endpoint: str, options: dict[str, Any]) -> S3Store:
        where = _s3_address(settings, endpoint)
        return S3Store(
            settings.bucket, config=cast(Any, {**config, **where}), **_patient(options, insecure=settings.skipverify)
        )

    return Clients(
        quick=client(settings.regionendpoint, _QUICK),
        bulk=client(settings.regionendpoint, _BULK),
        copying=client(settings.regionendpoint, _COPY),
        signing=client(settings.redirectendpoint or settings.regionendpoint, _QUICK) if redirect else None,
        chunk=settings.chunksize,
        name=f"S3 bucket {settings.bucket}",
        attributes={} if plain else {"Storage-Class": settings.storageclass},
        # A copy is of the standard class, whatever its source is.
        copies=plain,
    )


def _s3_address(settings: S3, endpoint: str) -> dict[str, Any]:
    """By the bucket's own name where names work, as AWS wants; else by a path of the endpoint."""
    if not endpoint:
        # A dot in the name would not match AWS's certificate.
        own_name = not settings.forcepathstyle and "." not in settings.bucket
        return {"virtual_hosted_style_request": own_name}
    if "://" not in endpoint:
        endpoint = f"{'https' if settings.secure else 'http'}://{endpoint}"
    parts = urlsplit(endpoint)
    if settings.forcepathstyle or _is_address(parts.hostname or "") or "." not in (parts.hostname or ""):
        return {"endpoint": endpoint.rstrip("/"), "virtual_hosted_style_request": False}
    own = parts._replace(netloc=f"{settings.bucket}.{parts.netloc}")
    return {"endpoint": own.geturl().rstrip("/"), "virtual_hosted_style_request": True}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _gcs(settings: GCS, *, redirect: bool) -> Clients:
    config: dict[str, Any] = {}
    if settings.keyfile is not None:
        config["service_account"] = str(settings.keyfile)
    elif settings.credentials is not None:
        config["service_account_key"] = settings.credentials.get_secret_value()
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator:
        url = emulator if "://" in emulator else f"http://{emulator}"
        no_login = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        config = {"service_account_key": json.dumps({"gcs_base_url": url, **no_login})}

    def client(options: dict[str, Any]) -> GCSStore:
        return GCSStore(settings.bucket, config=cast(Any, config), **_patient(options))

    return Clients(
        quick=client(_QUICK),
        bulk=client(_BULK),
        copying=client(_COPY),
        signing=client(_QUICK) if redirect and not emulator else None,
        chunk=settings.chunksize,
        name=f"GCS bucket {settings.bucket}",
        attributes={},
    )


def _azure(settings: Azure, *, redirect: bool) -> Clients:
    credentials = _azure_credentials(settings)
    endpoint = (settings.serviceurl or f"https://{settings.accountname}.blob.{settings.realm}").rstrip("/")
    config = {"account_name": settings.accountname, "endpoint": endpoint, **credentials}
    endpoint, container = config["endpoint"].rstrip("/"), settings.container

    def client(options: dict[str, Any], place: Mapping[str, str]) -> AzureStore:
        return AzureStore(config=cast(Any, {**config, **place}), **_patient(options, insecure=settings.skipverify))

    plain = {"container_name": container}
    # An empty name after the container's is the slash that the keys of distribution 2 begin with.
    slashed = {"container_name": "", "endpoint": f"{endpoint}/{container}"}
    place, elsewhere = (plain, slashed) if settings.trimlegacyrootprefix else (slashed, plain)
    quick, other = client(_QUICK, place), client(_QUICK, elsewhere)
    root, trust = f"{settings.rootdirectory.strip('/')}/".lstrip("/"), not settings.skipverify
    signature = azure.signature(config)
    by_hand = None if signature is None else azure.SlashedObjects(f"{endpoint}/{container}", signature, trust)
    objects: Objects | None = None
    if settings.trimlegacyrootprefix:
        address = azure.address(quick, endpoint, container, config.get("sas_key"))
        accepts = partial(azure.refuse_slashed, quick, by_hand or other, root)
    elif by_hand is not None:
        objects, address = by_hand, by_hand.address
        accepts = partial(azure.refuse_plain, other, root)
    else:
        raise StorageRefused("keys that begin with / take a connectionstring with AccountKey or a signature")
    # A shared access signature can't sign others, and obstore none for a key with a slash before it.
    signs = redirect and "sas_key" not in config and settings.trimlegacyrootprefix
    return Clients(
        quick=quick,
        bulk=client(_BULK, place),
        copying=client(_COPY, place),
        signing=quick if signs else None,
        chunk=settings.chunksize,
        name=f"Azure container {container}",
        attributes={},
        objects=objects,
        copied=partial(azure.copied, address, trust=trust),
        accepts=accepts,
    )


def _azure_credentials(settings: Azure) -> dict[str, Any]:
    if settings.connectionstring.get_secret_value():
        return _azure_connection(settings.connectionstring.get_secret_value())
    if settings.sastoken.get_secret_value():
        return {"sas_key": settings.sastoken.get_secret_value().removeprefix("?")}
    if settings.credentials is not None and settings.credentials.type == "client_secret":
        return {
            "client_id": settings.credentials.clientid,
            "tenant_id": settings.credentials.tenantid,
            "client_secret": settings.credentials.secret.get_secret_value(),
        }
    if settings.accountkey.get_secret_value():
        return {"account_key": settings.accountkey.get_secret_value()}
    return {}


def _azure_connection(text: str) -> dict[str, Any]:
    """`DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=…` or with a BlobEndpoint and a SAS."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    return {ours: parts[theirs] for theirs, ours in names.items() if theirs in parts}


_QUICK: Final[dict[str, Any]] = {
    "client_options": {"timeout": ANSWERED_WITHIN},
    "retry_config": {"max_retries": RETRIES, "retry_timeout": RETRIED_FOR},
}
_COPY: Final[dict[str, Any]] = {
    "client_options": {"timeout": COPIED_WITHIN},
    "retry_config": {"max_retries": RETRIES, "retry_timeout": RETRIED_FOR},
}
_BULK: Final[dict[str, Any]] = {
    "client_options": {"timeout": TRANSFERRED_WITHIN, "read_timeout": STALLED},
    "retry_config": {"max_retries": RETRIES, "retry_timeout": CONTENT_RETRIED_FOR},
}


def _patient(options: dict[str, Any], *, insecure: bool = False) -> dict[str, Any]:
    """Timeouts and retries; whom to trust."""
    trust: dict[str, Any] = {"allow_http": True, "connect_timeout": CONNECTED_WITHIN}
    if insecure:
        trust["allow_invalid_certificates"] = True
    elif file := os.environ.get("SSL_CERT_FILE"):
        try:
            trust["root_certificate"] = Path(file).read_bytes()
        except OSError as error:
            raise StorageRefused(f"SSL_CERT_FILE names {file}, which can't be read: {error.strerror}") from error
    return {
        "client_options": {**trust, **options["client_options"]},
        "retry_config": {**options["retry_config"], "backoff": BACKOFF},
    }
