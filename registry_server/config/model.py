"""The server's configuration as types: distribution's `config.yml`, version 0.1, and Regatta's own top-level blocks.

Those are `metadata`, `access`, `manifests`, `quotas`, `inuse`, `retention`, `garbagecollection`, `backup`, `bootstrap`,
`scrub` and `shutdown`. Field names are the file's keys. What distribution knows beyond them is in `distribution.py`.
"""

import re
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, model_validator

from registry_server.config.backup import Backup, Bootstrap
from registry_server.config.drivers import Drivers
from registry_server.config.globs import Glob
from registry_server.config.headers import check_headers
from registry_server.config.health import Health, unless_zero
from registry_server.config.inuse import ImageText
from registry_server.config.notifications import Notifications
from registry_server.config.proxy import Proxy
from registry_server.config.quotas import Quota
from registry_server.config.recurring import Recurring
from registry_server.config.retention import Retention, TagGlob
from registry_server.config.scalars import Address, AsText, Duration, ListenAddress, Text
from registry_server.config.scrub import Scrub
from registry_server.config.section import Bool, FilePath, Int, Secret, Section
from registry_server.config.validation import Validation

Action = Literal["pull", "push", "delete", "admin"]
Role = Literal["reader", "writer", "maintainer", "admin"]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class AccessLog(Section):
    """One line a request."""

    disabled: Bool = False


class Log(Section):
    """What is logged, and how a line looks."""

    level: Annotated[Literal["error", "warn", "info", "debug"], BeforeValidator(_lower)] = "info"
    formatter: Literal["text", "json", "logstash"] = "text"
    fields: dict[str, Any] = Field(default={})
    accesslog: AccessLog = AccessLog()
    reportcaller: Bool = False


class Delete(Section):
    """Whether blobs and manifests may be deleted."""

    enabled: Bool = False


class ReadOnly(Section):
    """Whether the registry refuses every write; followed while serving."""

    enabled: Bool = False


class UploadPurging(Section):
    """Uploads that nothing was added to for `age` are removed, looked for every `interval`."""

    enabled: Bool = True
    age: Duration = timedelta(hours=168)
    interval: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(hours=24)
    dryrun: Bool = False


class Maintenance(Section):
    """Housekeeping of the storage."""

    readonly: ReadOnly = ReadOnly()
    uploadpurging: UploadPurging = UploadPurging()


class Redirect(Section):
    """Whether clients are sent to the object store for the content of blobs, or get it through this server."""

    disable: Bool = False


class Storage(Drivers):
    """Where content lives: exactly one driver, and what holds for each of them."""

    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()
    redirect: Redirect = Redirect()


class Layout(Section):
    """Link files beside the blobs, as distribution keeps them."""


_DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")


def database_url(url: str) -> str:
    """Checks the URL of a database. Raises ValueError, whose text has no part of it: it may hold a password."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _DATABASES:
        raise ValueError(f"must begin with one of {', '.join(f'{name}://' for name in _DATABASES)}")
    if scheme == "sqlite":
        if not url.startswith("sqlite:////"):
            raise ValueError("must have an absolute path, for example sqlite:////var/lib/registry/metadata.db")
    elif not _names_a_database(url):
        raise ValueError(
            f"must be like {scheme}://USER:PASSWORD@HOST:PORT/DATABASE; write special characters of a password as %XX"
        )
    return url


def _names_a_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.path.strip("/")) and parts.port != 0
    except ValueError:
        return False


def _secret_database_url(url: SecretStr) -> SecretStr:
    database_url(url.get_secret_value())
    return url


class SQL(Section):
    """A database: its `url`, or a file with nothing else in it that is read again for each new connection.

    `poolsize` bounds a worker's connections, half of them for writing; `timeout` how long anything may wait for
    the database. `migrate: manual` leaves the schema to `registry-server metadata migrate`.
    """

    url: (
        Annotated[
            SecretStr,
            AsText,
            AfterValidator(_secret_database_url),
            PlainSerializer(SecretStr.get_secret_value, when_used="json"),
        ]
        | None
    ) = None
    urlfile: FilePath | None = None
    poolsize: Annotated[Int, Field(ge=2)] = 8
    timeout: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(seconds=10)
    migrate: Literal["auto", "manual"] = "auto"

    @model_validator(mode="after")
    def _url_or_file(self) -> Self:
        if (self.url is None) == (self.urlfile is None):
            raise ValueError("needs either url, such as sqlite:////var/lib/registry/metadata.db, or urlfile")
        return self


class Metadata(Section):
    """Where it is kept which repository holds what under which tag: exactly one driver."""

    layout: Layout | None = None
    sql: SQL | None = None

    @model_validator(mode="after")
    def _one_driver(self) -> Self:
        if self.layout is not None and self.sql is not None:
            raise ValueError("has two drivers; keep layout or sql")
        return self


def _minimum_tls(value: Any) -> Any:
    if value in ("tls1.0", "tls1.1"):
        raise ValueError(
            f"{value} is broken (RFC 8996) and not offered; use tls1.2, which every client since 2014 speaks"
        )
    return value


def _client_auth(value: Any) -> Any:
    if value in ("request-client-cert", "require-any-client-cert", "verify-client-cert-if-given"):
        raise ValueError(
            f"{value} is not offered: who a client's certificate is for is not looked at, so it is only of use when it "
            "is required and verified; use require-and-verify-client-cert"
        )
    return value


class TLS(Section):
    """HTTPS from a certificate (with its chain) and its key, PEM files that are read again when they change.

    With `clientcas` only clients with a certificate of one of these authorities get a connection; who they are still
    takes a login.
    """

    certificate: FilePath
    key: FilePath
    clientcas: tuple[FilePath, ...] = ()
    clientauth: Annotated[Literal["require-and-verify-client-cert"], BeforeValidator(_client_auth)] = (
        "require-and-verify-client-cert"
    )
    minimumtls: Annotated[Literal["tls1.2", "tls1.3"], BeforeValidator(_minimum_tls)] = "tls1.2"


class H2C(Section):
    """HTTP/2 without TLS, for clients and proxies that begin with it (RFC 9113, 3.3)."""

    enabled: Bool = False


class HTTP2(Section):
    """HTTP/2, over TLS only."""

    disabled: Bool = False


def _metrics_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must start with /, for example /metrics")
    return path


class Prometheus(Section):
    """Metrics on the debug address."""

    enabled: Bool = False
    path: Annotated[Text, AfterValidator(_metrics_path)] = "/metrics"


class Debug(Section):
    """Health and metrics on an address of their own: plain HTTP, no login, so never a public one."""

    addr: ListenAddress
    prometheus: Prometheus = Prometheus()


def _prefix(prefix: str) -> str:
    if prefix and not (prefix.startswith("/") and prefix.endswith("/")):
        raise ValueError("must start and end with /, for example /registry/")
    return prefix


def _external_url(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("must be a whole URL such as https://registry.example.com")
    return url


def _headers(headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    check_headers(headers)
    return headers


def _network(value: Any) -> Any:
    try:
        return ip_network(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8 or fd00::/8, or one address") from None


Network = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(_network), PlainSerializer(str, return_type=str, when_used="json")
]


class HTTP(Section):
    """The address of the API and how it answers.

    `trustedproxies`: the networks of proxies whose `X-Forwarded-For` says where a request comes from; failed logins are
    counted by that address.
    """

    addr: ListenAddress = Address("", 5000)
    host: Annotated[Text, AfterValidator(_external_url)] = ""
    prefix: Annotated[Text, AfterValidator(_prefix)] = ""
    secret: Secret = SecretStr("")
    relativeurls: Bool = False
    headers: Annotated[dict[str, tuple[Text, ...]], AfterValidator(_headers)] = Field(default={})
    draintimeout: Duration = timedelta(seconds=60)
    trustedproxies: tuple[Network, ...] = ()
    tls: TLS | None = None
    http2: HTTP2 = HTTP2()
    h2c: H2C = H2C()
    debug: Debug | None = None


def _realm(realm: str) -> str:
    if not (realm.isascii() and realm.isprintable()):
        raise ValueError("must be of printable ASCII characters: it is part of a header")
    return realm


class Htpasswd(Section):
    """Logins from an htpasswd file with bcrypt hashes, read again when it changes."""

    realm: Annotated[Text, Field(min_length=1), AfterValidator(_realm)]
    path: FilePath


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
"""How tokens are signed by who has a private key; verifying takes the public one."""
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


def _algorithm(value: Any) -> Any:
    if isinstance(value, str) and (value.startswith("HS") or value.lower() == "none"):
        raise ValueError(f"{value} is not accepted: whoever can verify such a token can make one; use RS256 or ES256")
    return value


Algorithms = Annotated[tuple[Annotated[Algorithm, BeforeValidator(_algorithm)], ...], Field(min_length=1)]


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must start with /, for example /auth/token")
    return path


class Token(Section):
    """Tokens of a token server: it says in each what its bearer may do.

    They are signed by a key of `rootcertbundle` (certificates as PEM, which also verify chains that tokens bring) or of
    `jwks`; both files are read again when they change.
    """

    realm: Annotated[Text, AfterValidator(_realm)] = ""
    service: Annotated[Text, Field(min_length=1), AfterValidator(_realm)]
    issuer: Annotated[Text, Field(min_length=1)]
    rootcertbundle: FilePath | None = None
    jwks: FilePath | None = None
    signingalgorithms: Algorithms = ALGORITHMS
    autoredirect: Bool = False
    autoredirectpath: Annotated[Text, AfterValidator(_realm), AfterValidator(_path)] = "/auth/token"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.rootcertbundle is None and self.jwks is None:
            raise ValueError("needs rootcertbundle or jwks: the keys by which tokens are verified")
        if not self.realm and not self.autoredirect:
            raise ValueError("needs realm, the URL of the token server, or autoredirect: true")
        return self


def _issuer(url: str) -> str:
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.scheme not in ("https", "http") or parts.query or parts.fragment:
        raise ValueError("must be a URL such as https://login.example.com/realm, as the issuer writes it in its tokens")
    if parts.scheme == "http" and not local:
        raise ValueError("must be https: whoever is on the way of plain HTTP could log in as anyone")
    return url


class OIDC(Section):
    """Logins with ID tokens of an OpenID Connect issuer, sent as a password or as a bearer token.

    Users and groups are called `prefix` and what the claims say, so that nobody there is taken for somebody here.
    """

    issuer: Annotated[Text, AfterValidator(_issuer)]
    clientid: Annotated[Text, Field(min_length=1)]
    usernameclaim: Annotated[Text, Field(min_length=1)] = "sub"
    groupsclaim: Text = "groups"
    prefix: Text = "oidc:"
    signingalgorithms: Algorithms = ALGORITHMS
    ca: FilePath | None = None


class Kubernetes(Section):
    """Logins with tokens of ServiceAccounts made for `audience`, sent as a password or as a bearer token.

    The API server is that of the pod's own cluster unless `server`, `ca` and `token` name another.
    """

    audience: Annotated[Text, Field(min_length=1)]
    server: Annotated[Text, AfterValidator(_issuer)] | None = None
    ca: FilePath = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    token: FilePath = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Auth(Section):
    """How clients log in: by a token server alone, or by any of the others."""

    htpasswd: Htpasswd | None = None
    token: Token | None = None
    oidc: OIDC | None = None
    kubernetes: Kubernetes | None = None

    @model_validator(mode="after")
    def _token_alone(self) -> Self:
        others = [name for name in ("htpasswd", "oidc", "kubernetes") if getattr(self, name) is not None]
        if self.token is not None and others:
            raise ValueError(f"token stands alone: its server knows the logins; remove it, or {' and '.join(others)}")
        return self

    @property
    def issues_tokens(self) -> bool:
        """Whether the registry knows logins for which it makes tokens itself."""
        return self.htpasswd is not None or self.oidc is not None or self.kubernetes is not None

    @property
    def has_logins(self) -> bool:
        return self.token is not None or self.issues_tokens


_SUBJECT = re.compile(r"anonymous|authenticated|user:\S+|group:\S(.*\S)?|serviceaccount:[a-z0-9-]+:[a-z0-9.-]+")


def _subject(subject: str) -> str:
    if not (subject.isprintable() and _SUBJECT.fullmatch(subject)):
        raise ValueError("must be anonymous, authenticated, user:NAME, group:NAME or serviceaccount:NAMESPACE:NAME")
    return subject


class Policy(Section):
    """Grants every one of `subjects` the actions on every matching repository, by `role` or as `actions`.

    `*` and `?` match within one component of a name, `**` any number of components; `team/**` is everything below
    `team`, not `team` itself.
    """

    subjects: Annotated[tuple[Annotated[Text, AfterValidator(_subject)], ...], Field(min_length=1)]
    repositories: Annotated[tuple[Glob, ...], Field(min_length=1)]
    role: Role | None = None
    actions: Annotated[tuple[Action, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _role_or_actions(self) -> Self:
        if (self.role is None) == (self.actions is None):
            raise ValueError(
                "needs either role (reader, writer, maintainer, admin) or actions (pull, push, delete, admin)"
            )
        return self


class ImmutableTags(Section):
    """Tags that, once pushed, neither move nor go: those that match one of `tags`, but none of `exclude`.

    `semver`: also those that are a whole version, such as 1.2.3 or v2.0.0-rc.1; `latest`, `1` and `1.2` go on moving.
    """

    repositories: Annotated[tuple[Glob, ...], Field(min_length=1)]
    tags: Annotated[tuple[TagGlob, ...], Field(min_length=1)] | None = None
    semver: Bool = False
    exclude: tuple[TagGlob, ...] = ()

    @model_validator(mode="after")
    def _some_tags(self) -> Self:
        if self.tags is None and not self.semver:
            raise ValueError("needs tags, for example [v*], or semver: true")
        return self


class Access(Section):
    """Who may do what: nothing is allowed but what a policy grants. And what nobody may: move an immutable tag.

    Followed while serving.
    """

    policies: tuple[Policy, ...] | None = None
    immutabletags: tuple[ImmutableTags, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _policies_or_none(cls, settings: Any) -> Any:
        """Without policies everything is as without `access`, which nobody may come to by a slip."""
        if isinstance(settings, dict) and not settings.get("immutabletags") and settings.get("policies") is None:
            raise ValueError("has no policies; add them, or remove access to let everyone who may log in do everything")
        return settings


class Manifests(Section):
    """Which manifests may be pushed although something they list is not in the repository.

    `indexes`: an index without some of its manifests, as when only some platforms are copied; `all`: images without
    some of their blobs, too.
    """

    sparse: Literal["none", "indexes", "all"] = "indexes"


class GarbageCollection(Recurring):
    """What nothing refers to is collected once nobody has pushed it or asked for it for `grace`.

    It is kept apart for as long again, and given back to whoever asks for it. A push that takes longer than `grace`
    from its first layer to its manifest has to be done again.

    A server does so by itself an `interval` after the last time, also if that was by another server or by the command,
    or by a `schedule`. With `deleteuntagged` manifests that no tag leads to go as well.
    """

    grace: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(hours=24)
    deleteuntagged: Bool = False


class Shutdown(Section):
    """How a server leaves that was told to stop.

    For the time of `notice` it takes new connections all the same and ends each with its next answer, so that clients
    and whatever leads them here turn to another server before a connection is closed. Then `http.draintimeout` begins.
    """

    notice: Duration = timedelta(0)


class Catalog(Section):
    """How many repositories a page of the catalog has at most, however many a client asks for."""

    maxentries: Annotated[Int, AfterValidator(lambda count: count if count > 0 else 1000)] = 1000


class Tags(Section):
    """How many tags a page of a repository's has at most, however many a client asks for."""

    maxtags: Annotated[Int, Field(ge=0), AfterValidator(unless_zero(10_000))] = 10_000


def _version(value: Any) -> Any:
    return str(getattr(value, "text", value)) if isinstance(value, float) else value


class Config(Section):
    """The whole file. Without `access.policies` whoever may log in may do everything, as in distribution."""

    version: Annotated[
        Literal["0.1"], BeforeValidator(_version), PlainSerializer(float, return_type=float, when_used="json")
    ]
    log: Log = Log()
    storage: Storage
    metadata: Metadata = Metadata()
    http: HTTP = HTTP()
    auth: Auth = Auth()
    health: Health = Health()
    access: Access | None = None
    manifests: Manifests = Manifests()
    quotas: tuple[Quota, ...] = ()
    inuse: tuple[ImageText, ...] = ()
    retention: Retention | None = None
    garbagecollection: GarbageCollection = GarbageCollection()
    backup: Backup | None = None
    bootstrap: Bootstrap | None = None
    scrub: Scrub = Scrub()
    shutdown: Shutdown = Shutdown()
    proxy: Proxy = Proxy()
    notifications: Notifications = Notifications()
    validation: Validation = Validation()
    catalog: Catalog = Catalog()
    tags: Tags = Tags()

    @model_validator(mode="after")
    def _somewhere_for_events(self) -> Self:
        if self.notifications.enabled and self.storage.filesystem is None and not self.notifications.spool.directory:
            raise ValueError(
                "notifications.spool.directory is missing: beside content in an object store events can't wait; "
                "give a folder on a volume that outlives the server"
            )
        return self

    @model_validator(mode="after")
    def _backups_are_elsewhere(self) -> Self:
        if self.backup is not None:
            self._check_elsewhere("backup.destination", self.backup.destination)
        if self.bootstrap is not None:
            self._check_elsewhere("bootstrap.source", self.bootstrap.source)
        return self

    def _check_elsewhere(self, key: str, archive: Drivers) -> None:
        mine, theirs = self.storage.filesystem, archive.filesystem
        if mine is not None and theirs is not None:
            here, there = mine.rootdirectory.absolute(), theirs.rootdirectory.absolute()
            if here == there or here in there.parents or there in here.parents:
                raise ValueError(
                    f"{key}.filesystem: {there} and the registry's {here} are in one another; "
                    "a backup has to survive the loss of the registry: name another folder, best on another volume"
                )
        elif same_place(self.storage, archive):
            raise ValueError(f"{key}: is the registry's own storage; name another bucket or rootdirectory")

    @model_validator(mode="after")
    def _one_rule_for_indexes(self) -> Self:
        if self.validation.manifests.indexes.platforms is not None and "sparse" in self.manifests.model_fields_set:
            raise ValueError(
                "validation.manifests.indexes.platforms and manifests.sparse say both what an index may lack; "
                "remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _token_server_decides(self) -> Self:
        if self.auth.token is not None and self.access is not None and self.access.policies is not None:
            raise ValueError("access.policies: the token server decides who may do what; remove them, or auth.token")
        return self

    @model_validator(mode="after")
    def _strangers_need_policies(self) -> Self:
        if self.access is not None and self.access.policies is not None:
            return self
        for name, who in (("oidc", "everyone that the issuer knows"), ("kubernetes", "every pod of the cluster")):
            if getattr(self.auth, name) is not None:
                raise ValueError(f"auth.{name}: needs access.policies; without them {who} could do everything")
        return self


def same_place(one: Drivers, other: Drivers) -> bool:
    """Whether two settings mean the same folder, or the same root in the same bucket, however they log in."""
    return one.driver == other.driver and _place(one) == _place(other)


def _place(settings: Drivers) -> tuple[str, ...]:
    """What tells a place of a driver's from another."""
    if settings.filesystem:
        return (str(settings.filesystem.rootdirectory.absolute()),)
    if settings.s3:
        return settings.s3.regionendpoint, settings.s3.bucket, settings.s3.rootdirectory.strip("/")
    if settings.gcs:
        return settings.gcs.bucket, settings.gcs.rootdirectory.strip("/")
    if settings.azure:
        return settings.azure.accountname, settings.azure.container, settings.azure.rootdirectory.strip("/")
    return ()
