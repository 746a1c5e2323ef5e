"""What a plan needs to know besides the Registry: found or made by the reconcile, so that the plan itself is pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_operator.api.registry import DEFAULT_ACCESS_MODES


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both as PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnTls:
    """The Registry's own certificate authority, and the certificate it has issued for the server."""

    authority: KeyPair
    server: KeyPair


@dataclass(frozen=True, slots=True)
class Login:
    """A generated login. `htpasswd` is the line that the server reads: the user and the password's bcrypt hash."""

    username: str
    password: str = field(repr=False)
    htpasswd: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ArchiveSecrets:
    """What opens an archive of backups."""

    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The texts of the Secret with what the store asks for, by key."""
    signing_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of the world as far as a plan depends on it."""

    own_tls: OwnTls | None = None
    """Given with `tls.selfSigned`."""
    login: Login | None = None
    """Given without `access.htpasswd`."""
    access_modes: tuple[str, ...] = DEFAULT_ACCESS_MODES
    """Of the volume: of the claim that exists, or of the one to be made."""
    in_use: tuple[str, ...] = ()
    """The images that pods run, such as `team/app:v1`, where `retention` keeps them."""
    backup: ArchiveSecrets = ArchiveSecrets()
    """Of `backup.destination`."""
    bootstrap: ArchiveSecrets = ArchiveSecrets()
    """Of `bootstrap.source`."""
