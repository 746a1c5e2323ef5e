"""Reads a configuration: the file, then the environment's overrides, then what only distribution knows, then the types.

Every fault found on that way is one line, `place: key: what is wrong; what to do`, and all are reported together.
"""

import difflib
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from registry_server.config import distribution, document, environment
from registry_server.config.document import DocumentError, Keys, Value, dotted
from registry_server.config.drivers import DRIVERS
from registry_server.config.model import Config
from registry_server.config.proxy import Remote
from registry_server.config.section import Section


class ConfigError(Exception):
    """What is wrong with a configuration; str() has one line a fault, each with its place and what to do."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right, and what its author should still know, one line each."""

    config: Config
    warnings: tuple[str, ...] = ()


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """The configuration in the file at `path` with the `REGISTRY_*` overrides in `environ`.

    Raises ConfigError naming every fault; files the configuration refers to must be there and readable.
    """
    root, warnings = _read(path)
    faults: list[str] = []
    _expand_names(root)
    for name, text in environment.overrides(environ):
        try:
            warnings += environment.override(root, name, text)
        except DocumentError as error:
            faults.append(str(error))
        _expand_names(root)
    judgement = distribution.judge(root)
    warnings += judgement.warnings
    faults += [f"{value.place}: {dotted(keys)}: {text}" for keys, value, text in judgement.faults]
    faults += [_unknown(keys, value.place, known, known) for keys, value, known in judgement.unknown]

    try:
        config = Config.model_validate(root.plain() or {})
    except ValidationError as error:
        other_driver = any(keys[0] == "storage" for keys, _, _ in judgement.faults)
        faults += [
            _explain(detail, root)
            for detail in error.errors()
            if not (other_driver and detail["loc"] == ("storage",) and detail["type"] == "value_error")
            and not (detail["type"] == "too_short" and detail["input"])  # its elements are at fault, not their number
        ]
    else:
        faults += _missing_files(config, root)
        warnings += _cautions(config, root)
    if faults:
        raise ConfigError(*sorted(faults, key=_by_line))
    return Loaded(config, tuple(warnings))


def dump(config: Config) -> str:
    """The file that `load` reads as `config`: keys sorted, only what was set, the same bytes for the same settings."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    return yaml.dump(settings, Dumper=yaml.CSafeDumper, allow_unicode=True, width=4096)


def _read(path: Path) -> tuple[Value, list[str]]:
    try:
        root, warnings = document.read(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give the path of a configuration file") from None
    except DocumentError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(root.data, dict | None):
        raise ConfigError(f"{root.place}: must be a map of settings that starts with version: 0.1")
    return root, warnings


_NEVER_DROPPED: tuple[Keys, ...] = (
    *(("storage", name) for name in DRIVERS),
    ("metadata", "sql"),
    ("auth", "htpasswd"),
    ("access",),
)
"""Blocks that say something even when nothing is in them: a driver, or a guard that must not be taken away unseen."""


def _expand_names(root: Value) -> None:
    """Gives `storage: filesystem`, which names a kind alone, and blocks left empty their empty settings."""
    for block in ("storage", "metadata", "auth"):
        value = root.find((block,))
        if value is not None and isinstance(value.data, str):
            value.data = {value.data: Value({}, value.place)}
    storage = root.find(("storage",))
    if storage is not None and isinstance(storage.data, dict) and "s3aws" in storage.data:
        storage.data.setdefault("s3", storage.data.pop("s3aws"))  # distribution's other name for it
    for keys in _NEVER_DROPPED:
        value = root.find(keys)
        if value is not None and value.data is None:
            value.data = {}


def _explain(error: ErrorDetails, root: Value) -> str:
    keys: Keys = error["loc"]
    place, kind = root.at(keys).place, error["type"]
    if kind == "extra_forbidden":
        own = _fields(keys[:-1])
        return _unknown(keys, place, own, (*own, *distribution.names(keys[:-1])))
    if kind == "missing":
        return f"{place}: {dotted(keys)}: is missing; {_ADD.get(keys, 'add it')}"
    return f"{place}: {dotted(keys)}: {_wrong(error)}" if keys else f"{place}: {_wrong(error)}"


_ADD: dict[Keys, str] = {
    ("version",): "add version: 0.1 as the first line",
    ("storage",): "add storage: {filesystem: {rootdirectory: /var/lib/registry}}",
    ("storage", "s3", "bucket"): "give the name of the bucket",
    ("storage", "gcs", "bucket"): "give the name of the bucket",
    ("storage", "azure", "accountname"): "give the name of the storage account",
    ("storage", "azure", "container"): "give the name of the container",
    ("http", "tls", "certificate"): "give the path of the PEM file, or remove http.tls to serve plain HTTP",
    ("http", "tls", "key"): "give the path of the PEM file, or remove http.tls to serve plain HTTP",
    ("http", "debug", "addr"): "add an address such as :5001, or remove http.debug",
    ("auth", "htpasswd", "realm"): "add a name that clients show when they ask for a login",
    ("auth", "htpasswd", "path"): "give the path of a file made with: registry-server htpasswd FILE USER",
    ("auth", "token", "service"): "give the name by which the token server knows this registry",
    ("auth", "token", "issuer"): "give the name of the token server, as it writes it in its tokens",
    ("auth", "oidc", "issuer"): "give the issuer's URL, such as https://login.example.com",
    ("auth", "oidc", "clientid"): "give the client that ID tokens must be made for (their claim aud)",
    ("auth", "kubernetes", "audience"): "give what tokens must be made for, such as the registry's host name",
}

_WRONG = {
    "string_type": "must be a text; put it in quotes",
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "path_type": "must be the path of a file; put it in quotes",
    "dict_type": "must be a map of settings",
    "model_type": "must be a map of settings",
    "model_attributes_type": "must be a map of settings",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def _wrong(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            values = context["expected"].replace("'", "")
            guess = _closest(str(error["input"]), values.replace(" or ", ", ").split(", "))
            return f"must be {values}" + (f"; did you mean {guess}?" if guess else "")
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return "must be longer than 0s"
        case kind:
            return _WRONG.get(kind, error["msg"])


def _unknown(keys: Keys, place: str, own: tuple[str, ...], known: tuple[str, ...]) -> str:
    name = str(keys[-1])
    start = f"{place}: {dotted(keys)}: is not a setting"
    if guess := _closest(name, known):
        return f"{start}; did you mean {dotted((*keys[:-1], guess))}?"
    if elsewhere := [path for path in _paths() if path[-1] == name.lower()]:
        return f"{start} here; did you mean {dotted(elsewhere[0])}?"
    return f"{start}; remove it or use one of: {', '.join(sorted(own))}"


def _closest(name: str, known: typing.Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)), None)


def _section(annotation: Any) -> type[Section] | None:
    """The block within an annotation such as `TLS | None` or `tuple[Policy, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for one in typing.get_args(annotation) if (found := _section(one))), None)


def _fields(keys: Keys) -> tuple[str, ...]:
    section: type[Section] | None = Config
    for key in keys:
        if isinstance(key, str) and section is not None:
            field = section.model_fields.get(key)
            section = _section(field.annotation) if field else None
    return tuple(section.model_fields) if section else ()


def _paths(section: type[Section] = Config, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*keys, name)
        if inner := _section(field.annotation):
            yield from _paths(inner, (*keys, name))


def _missing_files(config: Config, root: Value) -> Iterator[str]:
    needed: list[tuple[Keys, Path, str]] = []
    if tls := config.http.tls:
        needed.append((("http", "tls", "certificate"), tls.certificate, "give the path of a PEM file"))
        needed.append((("http", "tls", "key"), tls.key, "give the path of a PEM file"))
        for index, authority in enumerate(tls.clientcas):
            needed.append((("http", "tls", "clientcas", index), authority, "give the path of a PEM file"))
    if htpasswd := config.auth.htpasswd:
        hint = f"make it with: registry-server htpasswd {htpasswd.path} USER"
        needed.append((("auth", "htpasswd", "path"), htpasswd.path, hint))
    if (gcs := config.storage.gcs) and gcs.keyfile:
        hint = "give the path of a service account's JSON key, or remove it to use the workload's identity"
        needed.append((("storage", "gcs", "keyfile"), gcs.keyfile, hint))
    for keys, path in _trusted_files(config):
        needed.append((keys, path, "give the path of a file"))
    if (sql := config.metadata.sql) and sql.urlfile:
        needed.append((("metadata", "sql", "urlfile"), sql.urlfile, "give the path of a file that holds a URL"))
    needed += [
        ((*keys, "ca"), remote.ca, "give the path of a PEM file") for keys, remote in _remotes(config) if remote.ca
    ]
    for keys, path, hint in needed:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            what = {
                FileNotFoundError: f"{path} does not exist; {hint}",
                PermissionError: f"{path} may not be read by user {os.geteuid()}; change its owner or mode",
            }.get(type(error), f"{path} cannot be read: {error.strerror}; {hint}")
            yield f"{root.at(keys).place}: {dotted(keys)}: {what}"


def _remotes(config: Config) -> Iterator[tuple[Keys, Remote]]:
    yield ("proxy",), config.proxy
    for index, upstream in enumerate(config.proxy.upstreams):
        yield ("proxy", "upstreams", index), upstream


def _trusted_files(config: Config) -> Iterator[tuple[Keys, Path]]:
    """What says whom to trust beside certificate and users."""
    auth = config.auth
    if auth.token and auth.token.rootcertbundle:
        yield ("auth", "token", "rootcertbundle"), auth.token.rootcertbundle
    if auth.token and auth.token.jwks:
        yield ("auth", "token", "jwks"), auth.token.jwks
    if auth.oidc and auth.oidc.ca:
        yield ("auth", "oidc", "ca"), auth.oidc.ca
    if auth.kubernetes:
        yield ("auth", "kubernetes", "ca"), auth.kubernetes.ca
        yield ("auth", "kubernetes", "token"), auth.kubernetes.token


def _cautions(config: Config, root: Value) -> Iterator[str]:
    """What is allowed and probably not meant."""
    if config.auth.has_logins and not config.http.tls:
        kind = next(name for name in type(config.auth).model_fields if getattr(config.auth, name) is not None)
        what = "passwords" if kind == "htpasswd" else "tokens"
        where = root.at(("auth", kind)).place
        yield f"{where}: auth.{kind}: {what} are readable on the way without http.tls; keep a TLS proxy before it"
    oidc, others = config.auth.oidc, config.auth.htpasswd or config.auth.kubernetes
    if oidc and not oidc.prefix and others:
        where = root.at(("auth", "oidc", "prefix")).place
        yield f"{where}: auth.oidc.prefix: is empty, so who has the same name elsewhere is taken for the same"
    for keys, remote in _remotes(config):
        if remote.remoteurl.startswith("http:") and (remote.username or remote.exec):
            where = f"{root.at(keys).place}: {dotted(keys)}"
            yield f"{where}: the login is readable on the way; use an https:// remoteurl if the upstream has one"
    if config.access and not config.auth.has_logins:
        for index, policy in enumerate(config.access.policies or ()):
            if "anonymous" not in policy.subjects:
                keys = ("access", "policies", index)
                yield f"{root.at(keys).place}: {dotted(keys)}: grants nothing: nobody can log in without auth"


def _by_line(fault: str) -> tuple[bool, int, str]:
    """Faults in the order of the file, then those of the environment."""
    place = fault.partition(": ")[0]
    line = place.rpartition(":")[2]
    return (not line.isdecimal(), int(line) if line.isdecimal() else 0, fault)
