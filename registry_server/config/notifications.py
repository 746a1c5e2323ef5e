"""Notifications of what happens in the registry: distribution's `notifications`, with a spool and CloudEvents added."""

from datetime import timedelta
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from registry_server.config.headers import SecretHeaders
from registry_server.config.health import unless_zero
from registry_server.config.scalars import Duration, Text
from registry_server.config.section import Bool, FilePath, Int, Secret, Section

EventAction = Literal["pull", "push", "mount", "delete"]
EventFormat = Literal["v2", "v1", "cloudevents"]


class Ignore(Section):
    """Events an endpoint is spared: of these actions, or about content of these media types."""

    mediatypes: tuple[Text, ...] = ()
    actions: tuple[EventAction, ...] = ()


def _endpoint_url(url: Secret) -> Secret:
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if text and not whole:
        raise ValueError("must be a whole URL such as https://listener.example.com/events")
    return url


_SECOND = timedelta(seconds=1)


class Endpoint(Section):
    """Who is told, and how patiently.

    The URL and the headers may hold secrets, so they are shown nowhere. `format` is the envelope: distribution 3's
    (`v2`), the same under the media type of distribution 2 (`v1`), or a CloudEvent in structured JSON.
    """

    name: Annotated[Text, Field(min_length=1)]
    disabled: Bool = False
    url: Annotated[Secret, AfterValidator(_endpoint_url)] = SecretStr("")
    headers: SecretHeaders = Field(default_factory=dict)
    timeout: Annotated[Duration, AfterValidator(unless_zero(_SECOND))] = _SECOND
    threshold: Annotated[Int, Field(ge=0), AfterValidator(unless_zero(10))] = 10
    backoff: Annotated[Duration, AfterValidator(unless_zero(_SECOND))] = _SECOND
    ignoredmediatypes: tuple[Text, ...] = ()
    ignore: Ignore = Ignore()
    format: EventFormat = "v2"

    @property
    def address(self) -> str:
        """What may be shown of the URL: nothing but the host it leads to; empty without one."""
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""

    def wants(self, action: EventAction, media_type: str) -> bool:
        """Whether events of an action, about content of a media type, are not ignored."""
        return not (
            action in self.ignore.actions
            or media_type in self.ignore.mediatypes
            or media_type in self.ignoredmediatypes
        )

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.disabled and not self.url.get_secret_value():
            raise ValueError("needs a url to send events to, or disabled: true")
        return self


class Events(Section):
    """What events tell: with `includereferences` those of manifests list what the manifest refers to."""

    includereferences: Bool = False


class Spool(Section):
    """Where events wait for endpoints, by default beside the content; beyond `maxsize` bytes the oldest are dropped."""

    directory: FilePath | None = None
    maxsize: Annotated[Int, Field(ge=1 << 20)] = 256 << 20


class Notifications(Section):
    """Who is told what."""

    events: Events = Events()
    endpoints: tuple[Endpoint, ...] = ()
    spool: Spool = Spool()

    @property
    def enabled(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for endpoint in self.endpoints if not endpoint.disabled)

    @model_validator(mode="after")
    def _names_tell_apart(self) -> Self:
        names = [endpoint.name for endpoint in self.enabled]
        if again := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two endpoints are named {again}; what waits for each is kept by its name: rename one")
        return self
