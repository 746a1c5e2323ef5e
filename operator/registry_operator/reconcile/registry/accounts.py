"""The server's users: a login of the Registry's own, or a Secret that is given and checked."""

import asyncio
import secrets
from base64 import b64decode
from typing import Final

from registry_operator.api.kinds import SECRET
from registry_operator.api.names import child_name
from registry_operator.api.registry import Registry
from registry_operator.cluster.protocol import Cluster, Key, Manifest
from registry_operator.plan import Login
from registry_operator.plan.configuration import ADMIN
from registry_operator.plan.registry import ADMIN_LOGIN, LOGIN_CHECKED, login_digest
from registry_operator.reconcile.apply import find
from registry_operator.reconcile.fault import Fault
from registry_server.auth import htpasswd

PASSWORD_BYTES: Final = 24
"""Of randomness: 32 characters."""


async def observe_login(cluster: Cluster, registry: Registry) -> Login | None:
    """The generated login, kept once it is made; None where the users are given and good. Raises Fault."""
    given = registry.spec.access.htpasswd
    if given is not None:
        await _check_given(cluster, registry, given.secret_ref.name)
        return None
    secret = await find(cluster, SECRET, child_name(registry.metadata.name, ADMIN_LOGIN), registry)
    # bcrypt takes tens of milliseconds: beside the event loop, and only when something is new.
    return _verified(secret) or await asyncio.to_thread(_mended, secret)


def _verified(secret: Manifest | None) -> Login | None:
    """The login of a Secret whose password and hash were found to match, or were made together."""
    login = _login(secret)
    if secret is None or login is None or login.username != ADMIN:
        return None
    checked = secret["metadata"].get("annotations", {}).get(LOGIN_CHECKED)
    return login if checked == login_digest(login) else None


def _mended(secret: Manifest | None) -> Login:
    """A login that works: a person may change the password in the Secret, the hash follows. Without one, a new one."""
    found = _login(secret)
    password = found.password if found else secrets.token_urlsafe(PASSWORD_BYTES)
    if found and found.username == ADMIN and _match(found):
        return found
    try:
        return Login(ADMIN, password, htpasswd.entry(ADMIN, password))
    except ValueError:
        # What stands in the Secret can't be a password.
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        return Login(ADMIN, password, htpasswd.entry(ADMIN, password))


def _match(login: Login) -> bool:
    user, _, hashed = login.htpasswd.partition(":")
    try:
        return user == login.username and htpasswd.check_password(login.password.encode(), hashed.encode())
    except ValueError:
        return False


def _login(secret: Manifest | None) -> Login | None:
    data = (secret or {}).get("data") or {}
    try:
        username, password, line = (
            b64decode(data[key], validate=True).decode() for key in ("username", "password", "htpasswd")
        )
    except (KeyError, ValueError):
        return None
    return Login(username, password, line)


async def _check_given(cluster: Cluster, registry: Registry, name: str) -> None:
    where = f"access.htpasswd.secretRef: Secret {name}"
    secret = await cluster.get(Key(SECRET, registry.metadata.namespace, name))
    if secret is None:
        raise Fault(
            "UsersMissing",
            f"access.htpasswd.secretRef: there is no Secret {name}: create it with the key htpasswd, "
            "with lines made by `registry-server htpasswd`",
        )
    if "htpasswd" not in secret.get("data", {}):
        raise Fault(
            "UsersInvalid", f"{where} has no key htpasswd: put the lines made by `registry-server htpasswd` there"
        )
    try:
        users = htpasswd.parse(b64decode(secret["data"]["htpasswd"]).decode(), source="htpasswd")
    except UnicodeDecodeError:
        raise Fault("UsersInvalid", f"{where}: htpasswd isn't a text in UTF-8") from None
    except htpasswd.HtpasswdError as error:
        raise Fault("UsersInvalid", f"{where}: {'; '.join(error.faults)}") from None
    if not users:
        raise Fault("UsersInvalid", f"{where}: htpasswd names no user: add a line made by `registry-server htpasswd`")
