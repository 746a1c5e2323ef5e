"""Where a registry's process finds its files and listens: the one thing in which a pod and a local process differ."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Placement:
    """Paths and addresses as the server's process sees them, so that the same plan serves a pod and a local process."""

    config_directory: str
    """Holds `config.yml`, from the config Secret."""
    tls_directory: str
    """Holds `tls.crt` and `tls.key`, from the TLS Secret."""
    auth_directory: str
    """Holds `htpasswd`, from the logins' Secret."""
    data_directory: str
    """The volume with the registry's content."""
    backup_directory: str
    """Where a claim with its backups is mounted."""
    bootstrap_directory: str
    """Where a claim with the backup is mounted that it begins with."""
    listen: str
    """`host:port` of the registry's API."""
    debug_listen: str
    """`host:port` of health and metrics."""
    notice: timedelta
    """How long it takes until nobody is led here any more: what a process that stops waits for first."""
    hosts: tuple[str, ...]
    """DNS names and IP addresses by which clients reach the registry: the certificate's subject alternative names."""
    address: str
    """`host:port` that users put before an image's name."""
    operator: str | None = None
    """The namespace of the operator's pods, where it has any."""
