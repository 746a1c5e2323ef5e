"""`proxy`: a pull-through cache of other registries. Keys down to `ttl` are distribution's, others ours.

`remoteurl` is the upstream of every repository that none of `upstreams` claims by its prefix; without it those
repositories are the registry's own.
"""

from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from registry_server.config.scalars import Duration, Text
from registry_server.config.section import FilePath, Secret, Section
from registry_server.reference import is_repository

HUB: frozenset[str] = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
"""Names of Docker Hub; the last is where its API is."""


def _remote_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        sane = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        sane = False
    if not sane:
        raise ValueError("must be a whole URL such as https://registry-1.docker.io")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a login; use username and password beside it")
    if parts.query or parts.fragment or "/v2" in parts.path:
        raise ValueError("must be a registry's own address, without /v2/, a query or a fragment")
    return url.rstrip("/")


def _namespace(namespace: str) -> str:
    if not namespace or "/" in namespace or not (namespace.isascii() and namespace.isprintable()):
        raise ValueError("must be a registry's name as image references have it, for example docker.io")
    return namespace.lower()


def _prefix(prefix: str) -> str:
    if not is_repository(prefix):
        raise ValueError("must be the beginning of repository names, without / around it, for example docker.io")
    return prefix


class CredentialHelper(Section):
    """A program of docker-credential-helpers' protocol that knows the login; asked again after `lifetime`."""

    command: Annotated[Text, Field(min_length=1)]
    lifetime: Duration | None = None


class Remote(Section):
    """Another registry and how to log in there; `ns` are further names by which containerd may ask for it."""

    remoteurl: Annotated[Text, AfterValidator(_remote_url)]
    username: Text = ""
    password: Secret = SecretStr("")
    exec: CredentialHelper | None = None
    ca: FilePath | None = None
    ns: tuple[Annotated[Text, AfterValidator(_namespace)], ...] = ()

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if bool(self.username) != bool(self.password.get_secret_value()):
            raise ValueError("needs both username and password, or neither")
        if self.username and self.exec:
            raise ValueError("has a login and exec, which gives one; remove either")
        return self

    @property
    def host(self) -> str:
        """The host, with its port where the URL has one."""
        return urlsplit(self.remoteurl).netloc.lower()


class Upstream(Remote):
    """The registry whose repositories are below `prefix` here."""

    prefix: Annotated[Text, AfterValidator(_prefix)]


class Timeouts(Section):
    """How long an upstream may take: to be connected to, between two pieces of an answer, for an answer but a blob."""

    connect: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(seconds=10)
    idle: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(seconds=30)
    total: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(minutes=1)


class Proxy(Remote):
    """The cache. `ttl`: what nobody pulled for so long is let go of (0: never).

    `freshfor`: a tag is served for so long without asking its upstream; 0 asks each time, as distribution does.
    `staleiferror`: a tag that can't be asked for is served as it was, up to this age. `spool`: a folder of this server
    for content on its way.
    """

    remoteurl: Annotated[Text, AfterValidator(lambda url: url and _remote_url(url))] = ""
    ttl: Duration = timedelta(hours=168)
    freshfor: Duration = timedelta(0)
    staleiferror: Duration = timedelta(days=30)
    timeouts: Timeouts = Timeouts()
    spool: FilePath | None = None
    upstreams: tuple[Upstream, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.remoteurl and (self.username or self.exec):
            raise ValueError("has a login and no remoteurl to use it at")
        prefixes = [upstream.prefix for upstream in self.upstreams]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise ValueError(f"two upstreams have the prefix {prefix}; give each its own")
        remotes: list[Remote] = [self, *self.upstreams]
        names = [name for remote in remotes for name in remote.ns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two upstreams have the ns {name}; only one can be asked for it")
        return self

    @property
    def remotes(self) -> dict[str, Remote]:
        """Each upstream by its prefix, which is empty for `remoteurl`."""
        main: dict[str, Remote] = {"": self} if self.remoteurl else {}
        return main | {upstream.prefix: upstream for upstream in self.upstreams}

    @property
    def namespaces(self) -> dict[str, str]:
        """The prefix by the name that containerd asks for: those under `ns`, then the upstreams' own."""
        named = {name: prefix for prefix, remote in self.remotes.items() for name in remote.ns}
        for prefix, remote in self.remotes.items():
            for name in HUB if remote.host in HUB else (remote.host,):
                named.setdefault(name, prefix)
        return named
