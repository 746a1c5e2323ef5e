"""What becomes of each setting that distribution knows, by name: the table of `registry-server config reference`.

The names are those of `configuration/configuration.go` and of the drivers of distribution v3.1.2, and what v2.8 had
beside them. What becomes of them is read from the types and from `distribution.py`, so the table can't say otherwise.
"""

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from registry_server.config import distribution
from registry_server.config.model import Config
from registry_server.config.section import Section

Outcome = Literal["works", "no effect", "refused"]

Path = tuple[str, ...]
"""The way to a setting; `[]` stands for an element of a list."""


@dataclass(frozen=True, slots=True)
class Known:
    """A setting of distribution's."""

    path: Path
    type: str
    """As Go and YAML have it: text, number, bool, duration, list, map."""
    example: Any
    """A value that says something: never one that means off, nor one that is the default."""


def _known() -> Iterator[Known]:
    for line in _SETTINGS.strip().splitlines():
        name, type_, *example = line.split(maxsplit=2)
        yield Known(tuple(name.replace("[]", ".[]").split(".")), type_, _example(type_, *example))


def _example(type_: str, text: str | None = None) -> Any:
    match type_:
        case "bool":
            return text != "false"
        case "number":
            return int(text or 7)
        case "duration":
            return text or "7s"
        case "list":
            return (text or "x").split(",")
        case "map":
            return {"X-Name": ["x"]}
        case _:
            return text or "x"


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of a setting, or of all that are below it."""

    path: Path
    outcome: Outcome
    type: str = ""
    default: str = ""
    """Ours."""
    note: str = ""

    @property
    def name(self) -> str:
        return dotted(self.path)


def dotted(path: Path) -> str:
    return ".".join(path).replace(".[]", "[]")


def rows() -> list[Row]:
    """What becomes of distribution's settings, in its order; one row for a block of which nothing is implemented."""
    found: dict[Path, Row] = {}
    for known in KNOWN_TO_DISTRIBUTION:
        row = outcome_of(known)
        found.setdefault(row.path, row)
    return list(found.values())


def outcome_of(known: Known) -> Row:
    """What becomes of a setting. Raises LookupError for one that nothing in this package knows."""
    if known.path == ("loglevel",):
        return Row(known.path, "works", known.type, note="the old name of `log.level`, with a warning")
    if (verdict := distribution.verdict(known.path, known.example)) is not None:
        outcome: Outcome = "refused" if verdict.refused else "no effect"
        return Row(verdict.keys, outcome, known.type if verdict.keys == known.path else "map", note=verdict.text)
    field = _field(known.path)
    if field is None:
        raise LookupError(f"{dotted(known.path)} is known to distribution, and to nobody here")
    if (refusal := _refusal(field, known.example)) is not None:
        return Row(known.path, "refused", known.type, _default(field), refusal)
    return Row(known.path, "works", known.type, _default(field))


def _refusal(field: FieldInfo, example: Any) -> str | None:
    """Why the type of a setting takes no value but the one that changes nothing."""
    try:
        _holder(field).model_validate({"value": example})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return None


def own() -> list[Row]:
    """Regatta's own settings, which distribution does not have."""
    theirs = {known.path for known in KNOWN_TO_DISTRIBUTION}
    return [Row(path, "works", _type(field), _default(field)) for path, field in _leaves(Config) if path not in theirs]


def _field(path: Path) -> FieldInfo | None:
    section: type[Section] | None = Config
    field: FieldInfo | None = None
    for name in path:
        if name == "[]":
            continue
        field = section.model_fields.get(name) if section else None
        section = _section(field.annotation) if field else None
    return field


def _leaves(section: type[Section], path: Path = ()) -> Iterator[tuple[Path, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = _section(field.annotation)
        here = (*path, name, "[]") if _is_list(field) and inner else (*path, name)
        if inner is None:
            yield here, field
        else:
            yield from _leaves(inner, here)


def _section(annotation: Any) -> type[Section] | None:
    """The block within an annotation such as `TLS | None` or `tuple[Policy, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for one in typing.get_args(annotation) if (found := _section(one))), None)


def _is_list(field: FieldInfo) -> bool:
    """Also one that need not be there."""
    return tuple in (typing.get_origin(one) for one in (field.annotation, *typing.get_args(field.annotation)))


def _type(field: FieldInfo) -> str:
    text = str(field.annotation)
    for part, name in (("Literal", "text"), ("tuple", "list"), ("dict", "map"), ("bool", "bool"), ("int", "number")):
        if part in text:
            return name
    return "duration" if "timedelta" in text else "text"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    holder: type[BaseModel] = _holder(field)
    plain = holder.model_construct(value=value).model_dump(mode="json")["value"]
    if plain in (None, "", [], {}):
        return ""
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _holder(field: FieldInfo) -> type[BaseModel]:
    """A block of nothing but this field, for what its default looks like in a file."""
    from pydantic import create_model

    annotation: Any = field.annotation
    if field.metadata:
        annotation = typing.Annotated[annotation, *field.metadata]
    return create_model("Holder", value=(annotation, ...))


def markdown() -> str:
    """The reference for the documentation."""
    lines = [_HEADER]
    for row in rows():
        outcome = {"works": "works", "no effect": "accepted, no effect", "refused": "**refused**"}[row.outcome]
        below = " and below" if row.type == "map" and row.outcome != "works" else ""
        default = f"`{row.default}`" if row.default not in ("", "required") else row.default
        lines.append(f"| `{row.name}`{below} | {row.type} | {default} | {outcome} | {_cell(row.note)} |")
    lines.append(_OWN_HEADER)
    for row in own():
        default = f"`{row.default}`" if row.default not in ("", "required") else row.default
        lines.append(f"| `{row.name}` | {row.type} | {default} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_HEADER: Final = """\
# Configuration

<!-- Written by `make reference` from the code; `make lint` checks it. -->

The configuration file is distribution's `config.yml`, version 0.1, with its `REGISTRY_*` variables; unknown or mistyped
keys are faults with their line. `registry-server config check config.yml` says what a file means here, and every fault
of it at once.

## distribution's settings

All settings of distribution 3.1, and those that only distribution 2 has. A *refused* one is a fault that names it,
unless its value means "off" or says what is so anyway; an *accepted* one changes nothing for clients.

| setting | type | default | here | |
|---|---|---|---|---|"""

_OWN_HEADER: Final = """
## Regatta's own settings

| setting | type | default |
|---|---|---|"""

_SETTINGS: Final = """
version text 0.1
loglevel text debug
log.level text debug
log.formatter text json
log.fields map
log.accesslog.disabled bool
log.reportcaller bool
log.hooks[].disabled bool false
log.hooks[].type text mail
log.hooks[].levels list panic
log.hooks[].options.smtp.addr text mail.example.com:25
log.hooks[].options.smtp.username text
log.hooks[].options.smtp.password text
log.hooks[].options.smtp.insecure bool
log.hooks[].options.from text
log.hooks[].options.to list
storage.filesystem.rootdirectory text /srv/registry
storage.filesystem.maxthreads number 50
storage.inmemory map
storage.s3.accesskey text
storage.s3.secretkey text
storage.s3.region text us-east-1
storage.s3.regionendpoint text http://127.0.0.1:9000
storage.s3.forcepathstyle bool
storage.s3.accelerate bool
storage.s3.bucket text images
storage.s3.encrypt bool
storage.s3.keyid text
storage.s3.secure bool
storage.s3.skipverify bool
storage.s3.v4auth bool
storage.s3.chunksize number 5242880
storage.s3.multipartcopychunksize number 33554432
storage.s3.multipartcopymaxconcurrency number 50
storage.s3.multipartcopythresholdsize number 33554432
storage.s3.multipartcombinesmallpart bool
storage.s3.rootdirectory text
storage.s3.storageclass text STANDARD
storage.s3.useragent text
storage.s3.objectacl text private
storage.s3.redirectendpoint text http://127.0.0.1:9000
storage.s3.usedualstack bool
storage.s3.usefipsendpoint bool
storage.s3.loglevel text debug
storage.gcs.bucket text images
storage.gcs.keyfile text /etc/key.json
storage.gcs.credentials map
storage.gcs.rootdirectory text
storage.gcs.chunksize number 5242880
storage.gcs.useragent text
storage.gcs.maxconcurrency number 50
storage.azure.accountname text account
storage.azure.accountkey text a2V5
storage.azure.connectionstring text
storage.azure.container text images
storage.azure.realm text core.windows.net
storage.azure.rootdirectory text
storage.azure.serviceurl text http://127.0.0.1:10000
storage.azure.credentials.type text client_secret
storage.azure.credentials.clientid text
storage.azure.credentials.tenantid text
storage.azure.credentials.secret text
storage.azure.max_retries number
storage.azure.retry_delay duration 100ms
storage.azure.skipverify bool
storage.oss map
storage.swift map
storage.tag.concurrencylimit number 8
storage.delete.enabled bool
storage.redirect.disable bool
storage.cache.blobdescriptor text redis
storage.cache.blobdescriptorsize number 100
storage.cache.layerinfo text redis
storage.maintenance.uploadpurging.enabled bool
storage.maintenance.uploadpurging.age duration 24h
storage.maintenance.uploadpurging.interval duration 1h
storage.maintenance.uploadpurging.dryrun bool
storage.maintenance.readonly.enabled bool
auth.none map
auth.silly.realm text
auth.silly.service text
auth.token.realm text https://auth.example.com/token
auth.token.service text
auth.token.issuer text
auth.token.rootcertbundle text /etc/bundle.pem
auth.token.jwks text /etc/jwks.json
auth.token.autoredirect bool
auth.token.autoredirectpath text /auth/token
auth.token.signingalgorithms list RS256
auth.htpasswd.realm text
auth.htpasswd.path text /etc/htpasswd
middleware.registry[].name text
middleware.registry[].options map
middleware.repository[].name text
middleware.repository[].options map
middleware.storage[].name text cloudfront
middleware.storage[].options map
http.addr text :5001
http.net text unix
http.prefix text /images/
http.host text https://registry.example.com
http.secret text
http.relativeurls bool
http.draintimeout duration 30s
http.tls.certificate text /etc/tls.crt
http.tls.key text /etc/tls.key
http.tls.clientcas list /etc/ca.pem
http.tls.clientauth text verify-client-cert-if-given
http.tls.minimumtls text tls1.3
http.tls.ciphersuites list TLS_AES_128_GCM_SHA256
http.tls.letsencrypt.cachefile text /var/cache/certificates
http.tls.letsencrypt.email text
http.tls.letsencrypt.hosts list
http.tls.letsencrypt.directoryurl text
http.headers map
http.debug.addr text :5002
http.debug.prometheus.enabled bool
http.debug.prometheus.path text /prometheus
http.http2.disabled bool
http.h2c.enabled bool
notifications.events.includereferences bool
notifications.endpoints[].name text
notifications.endpoints[].disabled bool
notifications.endpoints[].url text https://listener.example.com/events
notifications.endpoints[].headers map
notifications.endpoints[].timeout duration 500ms
notifications.endpoints[].threshold number 5
notifications.endpoints[].backoff duration 2s
notifications.endpoints[].ignoredmediatypes list application/octet-stream
notifications.endpoints[].ignore.mediatypes list application/octet-stream
notifications.endpoints[].ignore.actions list pull
redis.addrs list 127.0.0.1:6379
redis.addr text 127.0.0.1:6379
redis.password text
redis.db number
redis.tls.certificate text /etc/tls.crt
redis.pool.maxidle number
health.storagedriver.enabled bool false
health.storagedriver.interval duration
health.storagedriver.threshold number
health.file[].file text /run/down
health.file[].interval duration
health.file[].threshold number
health.http[].uri text https://server.example.com
health.http[].headers map
health.http[].statuscode number 204
health.http[].timeout duration
health.http[].interval duration
health.http[].threshold number
health.tcp[].addr text 127.0.0.1:6379
health.tcp[].timeout duration
health.tcp[].interval duration
health.tcp[].threshold number
catalog.maxentries number 100
tags.maxtags number 100
proxy.remoteurl text https://registry-1.docker.io
proxy.username text
proxy.password text
proxy.exec.command text docker-credential-helper
proxy.exec.lifetime duration 1h
proxy.ttl duration 24h
proxy.cachewritetimeout duration 1h
validation.enabled bool
validation.disabled bool
validation.manifests.urls.allow list ^https://example\\.com/
validation.manifests.urls.deny list ^https://www\\.example\\.com/
validation.manifests.indexes.platforms text all
validation.manifests.indexes.platformlist[].architecture text amd64
validation.manifests.indexes.platformlist[].os text linux
policy.repository.classes list image
compatibility.schema1.enabled bool
compatibility.schema1.trustkey text /etc/key.json
reporting.bugsnag.apikey text
reporting.bugsnag.releasestage text
reporting.bugsnag.endpoint text
reporting.newrelic.licensekey text
reporting.newrelic.name text
reporting.newrelic.verbose bool
"""
"""Name, type and an example a line."""

KNOWN_TO_DISTRIBUTION: Final = tuple(_known())
