"""What a server needs before its first request, found out at the start and said in terms of its configuration."""

import hmac
import importlib.util
import logging
import secrets
import socket
import ssl
import tempfile
from pathlib import Path

from registry_server.auth.logins import Logins
from registry_server.auth.tokens import shared_key
from registry_server.config import Config, ConfigError, Storage
from registry_server.http.engine import Certificate, CertificateError
from registry_server.metadata.drivers import prepare
from registry_server.notifications import Journal, SpoolError, prepare_spool
from registry_server.storage import preparation
from registry_server.storage.contract import StorageError, StorageRefused

logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Find out now what would otherwise only fail at the first request. Raises ConfigError."""
    if config.storage.filesystem is not None:
        _check_folder(config.storage.filesystem.rootdirectory)
    elif importlib.util.find_spec("obstore") is None:
        raise ConfigError(f"storage.{config.storage.driver}: needs obstore: pip install 'regatta[objectstore]'")
    elif not config.storage.maintenance.readonly.enabled:
        _check_bucket(config.storage)
    prepare(config.metadata)
    read_certificate(config)
    Logins.from_config(config, secrets.token_bytes(32)).authenticator.close()
    _check_upstreams(config)
    if config.notifications.enabled:
        _prepare_events(config)


def _check_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(
            f"storage.filesystem.rootdirectory: {root}: {error.strerror}; the server's user must be able to write there"
        ) from error


def _check_bucket(settings: Storage) -> None:
    """A store that is away may come back, and `/readyz` says so; one that refuses won't change its mind."""
    try:
        preparation.try_writing(settings)
    except StorageRefused as error:
        raise ConfigError(f"storage.{settings.driver}: {error}; correct the bucket or its credentials") from error
    except StorageError as error:
        logger.warning("%s; serving will begin when it is back", error)


def read_certificate(config: Config) -> Certificate | None:
    tls = config.http.tls
    if tls is None:
        return None
    try:
        return Certificate.read(tls.certificate, tls.key, minimum=tls.minimumtls, client_authorities=tls.clientcas)
    except CertificateError as error:
        raise ConfigError(f"http.tls: {error}") from error


def token_key(config: Config) -> bytes:
    secret = config.http.secret.get_secret_value()
    if secret:
        return hmac.digest(secret.encode(), b"tokens", "sha256")
    if not config.auth.issues_tokens:
        return secrets.token_bytes(32)
    if config.storage.filesystem is not None:
        return shared_key(config.storage.filesystem.rootdirectory / ".regatta" / "token-key")
    try:
        return preparation.shared_secret(config.storage, "token-key")
    except StorageError as error:
        raise ConfigError(
            f"storage.{config.storage.driver}: {error}; the key of tokens is kept there: try again later, or set "
            "http.secret, the same for all replicas"
        ) from error


def _check_upstreams(config: Config) -> None:
    for remote in config.proxy.remotes.values():
        try:
            ssl.create_default_context(cafile=remote.ca)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"proxy: ca {remote.ca} of {remote.host}: is no PEM file of certificates") from error
    spool = content_spool(config)
    if config.proxy.remotes and spool is not None:
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"proxy.spool: {spool}: {error.strerror}; choose another folder") from error


def content_spool(config: Config) -> Path | None:
    """A folder for each host: what a file system that several share shows of a growing file is not to be relied on."""
    spool, filesystem = config.proxy.spool, config.storage.filesystem
    if spool is None and filesystem is not None:
        spool = filesystem.rootdirectory / ".regatta" / "spool"
    return None if spool is None else spool / socket.gethostname()


def _events_folder(config: Config) -> Path:
    directory, filesystem = config.notifications.spool.directory, config.storage.filesystem
    if directory is not None:
        return directory
    if filesystem is None:
        raise ConfigError("notifications.spool.directory: is missing")  # which the types have refused before
    return filesystem.rootdirectory / ".regatta" / "notifications"


def _prepare_events(config: Config) -> None:
    endpoints = [endpoint.name for endpoint in config.notifications.enabled]
    try:
        prepare_spool(_events_folder(config), max_size=config.notifications.spool.maxsize, endpoints=endpoints)
    except SpoolError as error:
        raise ConfigError(f"notifications.spool.directory: {error}") from error


def open_journal(config: Config) -> Journal | None:
    """None where nobody is told anything."""
    if not config.notifications.enabled:
        return None
    return Journal(_events_folder(config), max_size=config.notifications.spool.maxsize)
