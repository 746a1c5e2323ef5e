"""The `registry-server` command: serve a configuration, check one, write logins.

Whatever a person can put right is one line on standard error, and exit code 2.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from registry_server import __version__
from registry_server.cli_backup import backup_group, bootstrap, restore
from registry_server.cli_garbage import garbage_collect
from registry_server.cli_metadata import metadata_group
from registry_server.cli_migrate import migrate
from registry_server.cli_retention import retention
from registry_server.cli_scrub import scrub
from registry_server.cli_usage import usage
from registry_server.config import SQL, Action, Auth, Config, ConfigError, Storage, load
from registry_server.config.cpus import available_cpus
from registry_server.config.section import Section

CONFIG_FAULT = 2


class _Commands(click.Group):
    """A group whose commands may raise ConfigError: each fault becomes a line for the person who called."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _say(error.faults, "red")
            ctx.exit(CONFIG_FAULT)


def _say(lines: Sequence[str], colour: str) -> None:
    for line in lines:
        click.secho(line, fg=colour, err=True)


_CONFIG = click.argument(
    "config", type=click.Path(path_type=Path), envvar="REGISTRY_CONFIGURATION_PATH", metavar="CONFIG"
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="registry-server")
def main() -> None:
    """A registry of container images and other OCI artifacts, over distribution's storage and configuration.

    \b
    Try it:
      registry-server htpasswd ./htpasswd alice       # asks for a password
      registry-server config check ./config.yml       # what would be served, and what is wrong
      registry-server serve ./config.yml

    \b
    A configuration to begin with:
      version: 0.1
      storage: {filesystem: {rootdirectory: ./data}}
      http: {addr: ":5000"}
      auth: {htpasswd: {realm: Registry, path: ./htpasswd}}

    Any setting can come from the environment as well: REGISTRY_HTTP_ADDR=:443 sets http.addr.
    """


@main.command()
@_CONFIG
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; by default one for each CPU available.")
def serve(config: Path, workers: int | None) -> None:
    """Serve the registry that CONFIG describes.

    It runs until SIGTERM or Ctrl-C; requests in progress then have http.draintimeout to end. Certificates, htpasswd
    files and keys are read again when they change, and so is the block access of CONFIG.

    \b
    Examples:
      registry-server serve /etc/regatta/config.yml
      REGISTRY_LOG_LEVEL=debug registry-server serve ./config.yml --workers 2

    Exit codes: 0 after a stop asked for, 2 for a configuration that cannot be served.
    """
    loaded = load(config, os.environ)
    _say([f"warning: {warning}" for warning in loaded.warnings], "yellow")
    from registry_server.serve import run

    try:
        code = run(loaded.config, config, workers=workers or available_cpus())
    except ConfigError as error:
        raise ConfigError(*(f"{config}: {fault}" for fault in error.faults)) from error
    sys.exit(code)


@main.command()
@click.argument("words", nargs=-1, required=True, metavar="[FILE] USER")
@click.option(
    "--cost",
    type=click.IntRange(4, 16),
    default=10,
    show_default=True,
    help="bcrypt's cost; one more doubles the time.",
)
def htpasswd(words: tuple[str, ...], cost: int) -> None:
    """Print a line of an htpasswd file for USER, or put it into FILE.

    The password is asked for, or read from standard input when that is no terminal; it is never an argument, which
    other users of the machine could read. FILE is made if it is not there, and replaced in one step if it is: servers
    that use it follow within seconds.

    \b
    Examples:
      registry-server htpasswd /etc/regatta/auth/htpasswd alice
      registry-server htpasswd ci < password.txt >> htpasswd
    """
    from registry_server.auth import htpasswd as file

    if len(words) > 2:
        raise click.UsageError("give [FILE] USER and nothing else; the password is read from standard input")
    *path, user = words
    try:
        file.check_user(user)
        line = file.entry(user, _password(), cost)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not path:
        click.echo(line)
        return
    try:
        new = file.write_entry(Path(path[0]), line)
    except OSError as error:
        raise ConfigError(f"{path[0]}: cannot be written: {error.strerror}; choose another file") from None
    click.echo(f"{path[0]}: {'added' if new else 'changed the password of'} {user}", err=True)


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


main.add_command(metadata_group)
main.add_command(usage)
main.add_command(retention)
main.add_command(garbage_collect)
main.add_command(backup_group)
main.add_command(restore)
main.add_command(bootstrap)
main.add_command(scrub)
main.add_command(migrate)


@main.group(name="config")
def config_group() -> None:
    """Look at configurations without serving them."""


@config_group.command()
@_CONFIG
@click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json is for programs.")
def check(config: Path, as_: str) -> None:
    """Say what CONFIG would serve, and what is wrong with it.

    Reads all that the configuration refers to, as `serve` does, and starts nothing. Secrets are not shown.

    \b
    Examples:
      registry-server config check ./config.yml
      registry-server config check ./config.yml --format json | jq .errors

    Exit codes: 0 when it can be served, 2 when not.
    """
    try:
        loaded = load(config, os.environ)
        cautions = _examine(config, loaded.config)
    except ConfigError as error:
        if as_ == "text":
            raise
        click.echo(json.dumps({"valid": False, "errors": error.faults, "warnings": []}, indent=2))
        sys.exit(CONFIG_FAULT)
    warnings = [*loaded.warnings, *cautions]
    if as_ == "json":
        settings = _without_secrets(loaded.config)
        click.echo(json.dumps({"valid": True, "errors": [], "warnings": warnings, "config": settings}, indent=2))
        return
    _say([f"warning: {warning}" for warning in warnings], "yellow")
    _show(_summary(loaded.config))


@config_group.command()
@click.option("--write", type=click.Path(path_type=Path), help="Put it into this file instead.")
@click.option("--check", "current", type=click.Path(path_type=Path), help="Fail unless this file says it.")
def reference(write: Path | None, current: Path | None) -> None:
    """Print what becomes of each of distribution's settings, as Markdown.

    \b
    Examples:
      registry-server config reference | less
      registry-server config reference --check docs/configuration.md

    Exit codes: 0, or 1 for a file that says something else.
    """
    from registry_server.config.reference import markdown

    if current is not None:
        if current.read_text() != markdown():
            click.secho(f"{current} is not what the code says; write it with: make reference", fg="red", err=True)
            sys.exit(1)
    elif write is not None:
        write.write_text(markdown())
    else:
        click.echo(markdown(), nl=False)


@main.group(name="access")
def access_group() -> None:
    """Look at who may do what."""


@access_group.command(name="check")
@_CONFIG
@click.option("--user", help="As policies name it after user:.")
@click.option("--serviceaccount", metavar="NAMESPACE:NAME", help="Instead of a user.")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="Of the user; may be repeated.")
@click.option("--repository", required=True)
@click.option("--action", required=True, type=click.Choice(["pull", "push", "delete", "admin"]))
@click.option("--tag", help="That is pushed or deleted, for the rules of immutable tags.")
@click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", help="json is for programs.")
def check_access(
    config: Path,
    user: str | None,
    serviceaccount: str | None,
    groups: tuple[str, ...],
    repository: str,
    action: Action,
    tag: str | None,
    as_: str,
) -> None:
    """Say whether CONFIG lets someone do something, and which policies decide.

    Without --user and --serviceaccount it is about whoever has no login.

    \b
    Examples:
      registry-server access check ./config.yml --user ci --repository team/app --action push
      registry-server access check ./config.yml --user oidc:eve --group oidc:dev --repository a --action pull

    Exit codes: 0 when it is allowed, 1 when not, 2 for a configuration that cannot be served.
    """
    from registry_server.auth.explain import Explanation, who
    from registry_server.auth.subject import ANONYMOUS, Subject
    from registry_server.reference import is_repository, is_tag

    if user is not None and serviceaccount is not None:
        raise click.UsageError("give --user or --serviceaccount, not both")
    if groups and user is None and serviceaccount is None:
        raise click.UsageError("only who has a login has groups; give --user or --serviceaccount, too")
    if not is_repository(repository):
        raise click.UsageError(f"{repository} is no repository's name; those are lower case, for example team/app")
    if tag is not None and not is_tag(tag):
        raise click.UsageError(f"{tag} is no tag")
    subject = ANONYMOUS
    if user is not None:
        subject = Subject.user(user, groups=groups)
    elif serviceaccount is not None:
        subject = Subject("serviceaccount", serviceaccount, groups)
    explanation = Explanation.of(load(config, os.environ).config, subject, repository, action, tag)
    if as_ == "json":
        click.echo(json.dumps({"allowed": explanation.allowed, "reasons": explanation.reasons}, indent=2))
    else:
        may = click.style("may", fg="green") if explanation.allowed else click.style("may not", fg="red")
        click.echo(f"{who(subject)} {may} {action} {repository}{f':{tag}' if tag else ''}")
        for reason in explanation.reasons:
            click.echo(f"  {reason}")
    sys.exit(0 if explanation.allowed else 1)


def _examine(path: Path, config: Config) -> list[str]:
    """Reads certificate and logins as `serve` would; raises ConfigError, returns what is probably not meant."""
    from registry_server.auth import Users
    from registry_server.http.engine import Certificate, CertificateError

    faults: list[str] = []
    cautions: list[str] = []
    if tls := config.http.tls:
        try:
            Certificate.read(tls.certificate, tls.key, minimum=tls.minimumtls, client_authorities=tls.clientcas)
        except CertificateError as error:
            faults.append(f"{path}: http.tls: {error}")
    if config.auth.htpasswd:
        try:
            names = Users.load(config.auth.htpasswd.path).hashes
        except ConfigError as error:
            faults += error.faults
        else:
            cautions += _strangers(config, names)
    if config.auth.token:
        from registry_server.auth.external import ExternalTokens

        try:
            ExternalTokens(config.auth.token)
        except ConfigError as error:
            faults += [f"{path}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(*faults)
    return cautions


def _strangers(config: Config, names: dict[str, bytes]) -> list[str]:
    """Users that policies name and the htpasswd file does not have."""
    path = config.auth.htpasswd.path if config.auth.htpasswd else ""
    if not names:
        return [f"{path} has no users, so nobody can log in; add one with: registry-server htpasswd {path} USER"]
    return [
        f"access.policies[{index}]: {subject} is not in {path}; correct the name or add the user"
        for index, policy in enumerate((config.access and config.access.policies) or ())
        for subject in policy.subjects
        if subject.startswith("user:") and subject.removeprefix("user:") not in names and not config.auth.oidc
    ]


def _without_secrets(config: Config) -> dict[str, Any]:
    return dict(_hidden(config, config.model_dump(mode="json", exclude_none=True)))


def _hidden(value: Any, shown: Any) -> Any:
    """What is shown of a value, without the secrets in it."""
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, Section):
        return {name: _hidden(getattr(value, name), one) for name, one in shown.items()}
    if isinstance(value, dict):
        return {name: _hidden(value[name], one) for name, one in shown.items()}
    if isinstance(value, tuple):
        return [_hidden(one, seen) for one, seen in zip(value, shown, strict=True)]
    return shown


def _summary(config: Config) -> list[tuple[str, str]]:
    """What is served where, a line a subject."""
    http, storage = config.http, config.storage
    scheme = "https" if http.tls else "http"
    from registry_server.auth.explain import in_words

    rows = [("registry", f"{scheme}://{http.addr.host or '*'}:{http.addr.port}{http.prefix.rstrip('/')}/v2/")]
    if http.host:
        rows.append(("seen as", http.host))
    if http.tls:
        rows.append(("certificate", f"{http.tls.certificate}, {http.tls.minimumtls} and above"))
        rows += [("clients need", f"a certificate of {authority}") for authority in http.tls.clientcas]
    writable = "read only" if storage.maintenance.readonly.enabled else "writable"
    deletable = "deletes allowed" if storage.delete.enabled else "no deletes"
    rows.append(("storage", f"{_place(storage)}, {writable}, {deletable}"))
    if config.metadata.sql:
        rows.append(("metadata", _database(config.metadata.sql)))
    for prefix, remote in config.proxy.remotes.items():
        where = f"{prefix}/**" if prefix else "all other repositories" if config.proxy.upstreams else "all repositories"
        login = f" as {remote.username}" if remote.username else f" by {remote.exec.command}" if remote.exec else ""
        rows.append(("cache", f"{where} from {remote.remoteurl}{login}"))
    rows += [("logins", text) for text in _logins(config.auth)] or [("logins", "none: everyone is anonymous")]
    if config.access is None or config.access.policies is None:
        who = "whoever logs in" if config.auth.has_logins else "everyone"
        rows.append(("access", "as each token says" if config.auth.token else f"{who} may do everything"))
    else:
        rows += [("access", in_words(policy)) for policy in config.access.policies] or [("access", "nobody")]
    for rule in config.access.immutabletags if config.access else ():
        tags = [*(rule.tags or ()), *(["whole versions"] if rule.semver else [])]
        rows.append(("immutable", f"{', '.join(tags)} on {', '.join(rule.repositories)}"))
    for endpoint in config.notifications.enabled:
        rows.append(("events", f"to {endpoint.name} at {endpoint.address}, as {endpoint.format}"))
    if http.debug:
        paths = ["/healthz", "/readyz", *([http.debug.prometheus.path] if http.debug.prometheus.enabled else [])]
        rows.append(("debug", f"http://{http.debug.addr.host or '*'}:{http.debug.addr.port} {' '.join(paths)}"))
    rows.append(("log", f"{config.log.level}, {config.log.formatter}"))
    return rows


def _place(storage: Storage) -> str:
    if storage.s3:
        where = storage.s3.regionendpoint or storage.s3.region
        return f"S3 bucket {storage.s3.bucket} at {where}, below /{storage.s3.rootdirectory.strip('/')}"
    if storage.gcs:
        return f"GCS bucket {storage.gcs.bucket}, below /{storage.gcs.rootdirectory.strip('/')}"
    if storage.azure:
        azure = storage.azure
        return f"Azure container {azure.container} of {azure.accountname}, below /{azure.rootdirectory.strip('/')}"
    return str(storage.filesystem.rootdirectory if storage.filesystem else "")


def _logins(auth: Auth) -> Iterator[str]:
    if auth.htpasswd:
        yield f"{auth.htpasswd.path}, realm {auth.htpasswd.realm}"
    if auth.token:
        where = auth.token.autoredirectpath if auth.token.autoredirect else auth.token.realm
        yield f"tokens of {auth.token.issuer} for {auth.token.service}, from {where}"
    if auth.oidc:
        yield f"ID tokens of {auth.oidc.issuer} for {auth.oidc.clientid}"
    if auth.kubernetes:
        yield f"ServiceAccounts' tokens for {auth.kubernetes.audience}"


def _database(settings: SQL) -> str:
    from registry_server.metadata.sql.database import describe, locate

    return describe(locate(settings))


def _show(rows: list[tuple[str, str]]) -> None:
    if not sys.stdout.isatty():
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            click.echo(f"{name:{width}}  {text}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True)
    for name, text in rows:
        table.add_row(name, Text(text))
    Console().print(table)
