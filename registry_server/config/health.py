"""What `/readyz` looks at: distribution's `health`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from registry_server.config.headers import SecretHeaders
from registry_server.config.scalars import Address, Duration, Text, parse_address
from registry_server.config.section import Bool, FilePath, Int, Secret, Section


def unless_zero(default: Any) -> Callable[[Any], Any]:
    """distribution takes a zero for nothing said."""
    return lambda value: value or default


_TEN_SECONDS = timedelta(seconds=10)
_FIVE_SECONDS = timedelta(seconds=5)
Interval = Annotated[Duration, AfterValidator(unless_zero(_TEN_SECONDS))]
Timeout = Annotated[Duration, AfterValidator(unless_zero(_FIVE_SECONDS))]
Threshold = Annotated[Int, Field(ge=0), AfterValidator(unless_zero(1))]


class StorageCheck(Section):
    """The readiness check of the storage: every `interval`, unready after `threshold` failures in a row."""

    enabled: Bool = True
    interval: Interval = _TEN_SECONDS
    timeout: Timeout = _FIVE_SECONDS
    threshold: Threshold = 3


class FileCheck(Section):
    """Unready while a file exists: a way to take a server out of service by hand."""

    file: FilePath
    interval: Interval = _TEN_SECONDS
    threshold: Threshold = 1

    @property
    def timeout(self) -> timedelta:
        """A look at a file takes no time, but on a file system that hangs."""
        return _FIVE_SECONDS


def _url(url: Secret) -> Secret:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a whole URL such as https://server.example.com/health")
    return url


class HTTPCheck(Section):
    """Unready while a server does not answer HEAD as it should. URL and headers may be secret."""

    uri: Annotated[Secret, AfterValidator(_url)]
    headers: SecretHeaders = Field(default_factory=dict)
    statuscode: Annotated[Int, Field(ge=0, le=599), AfterValidator(unless_zero(200))] = 200
    timeout: Timeout = _FIVE_SECONDS
    interval: Interval = _TEN_SECONDS
    threshold: Threshold = 1

    @property
    def address(self) -> str:
        """What may be shown of the URL."""
        parts = urlsplit(self.uri.get_secret_value())
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _peer(text: str) -> str:
    address: Address = parse_address(text)
    if not address.host or not address.port:
        raise ValueError("must be host:port, for example redis.example.com:6379")
    return text


class TCPCheck(Section):
    """Unready while a server takes no connections."""

    addr: Annotated[Text, AfterValidator(_peer)]
    timeout: Timeout = _FIVE_SECONDS
    interval: Interval = _TEN_SECONDS
    threshold: Threshold = 1


class Health(Section):
    """Checks behind `/readyz`."""

    storagedriver: StorageCheck = StorageCheck()
    file: tuple[FileCheck, ...] = ()
    http: tuple[HTTPCheck, ...] = ()
    tcp: tuple[TCPCheck, ...] = ()
