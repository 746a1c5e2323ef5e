"""Tokens of Kubernetes ServiceAccounts (`auth.kubernetes`), made for this registry and reviewed by the API server.

Only the API server knows whether the pod or the ServiceAccount behind a token is still there, so it is asked again
after a short while. Source: Kubernetes' API `authentication.k8s.io/v1`, TokenReview.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from registry_server.auth.authenticator import UnverifiedToken
from registry_server.auth.login import Login, LoginUnavailable, Unauthenticated
from registry_server.auth.remote import Refused, Remote
from registry_server.auth.subject import Subject
from registry_server.config import ConfigError, Kubernetes

SOURCE: Final = "kubernetes"
REVIEWED_FOR: Final = 60
"""Seconds that a review holds: so long a token works on after its pod is gone."""
_USER: Final = "system:serviceaccount:"


class ServiceAccounts:
    """Has tokens reviewed."""

    slow: Final = True

    def __init__(self, settings: Kubernetes, environ: Mapping[str, str] = os.environ) -> None:
        """Raises ConfigError where it can't be told which API server to ask."""
        self._settings = settings
        self._url = f"{settings.server or _own_server(environ)}/apis/authentication.k8s.io/v1/tokenreviews"
        self._remote = Remote(settings.ca, proxies=False)

    def issued(self, token: UnverifiedToken) -> bool:
        """Tokens for others are not shown to the API server."""
        audience, subject = token.claims.get("aud"), token.claims.get("sub")
        return isinstance(subject, str) and subject.startswith(_USER) and self._settings.audience in _list(audience)

    async def verify(self, token: UnverifiedToken) -> Login:
        expires, now = token.claims.get("exp"), time.time()
        if not isinstance(expires, int | float) or expires <= now:
            raise Unauthenticated
        status = await self._review(token.text)
        user = status.get("user") or {}
        name, audiences = user.get("username", ""), status.get("audiences")
        if status.get("authenticated") is not True or self._settings.audience not in _list(audiences):
            raise Unauthenticated
        if not name.startswith(_USER):
            raise Unauthenticated
        subject = Subject("serviceaccount", name.removeprefix(_USER), tuple(user.get("groups") or ()))
        return Login(subject, min(expires, now + REVIEWED_FOR), source=SOURCE)

    async def close(self) -> None:
        await self._remote.close()

    async def _review(self, token: str) -> Mapping[str, Any]:
        """Raises LoginUnavailable."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._settings.audience]},
        }
        try:
            own = self._settings.token.read_text().strip()  # replaced every hour
        except OSError as error:
            raise LoginUnavailable(f"{self._settings.token} cannot be read: {error.strerror}") from error
        try:
            answer = await self._remote.post(self._url, review, token=own)
        except Refused as error:
            if error.status not in (401, 403):
                raise
            hint = "bind the ClusterRole system:auth-delegator to the server's ServiceAccount"
            raise LoginUnavailable(
                f"the API server lets the registry review no tokens ({error.status}); {hint}"
            ) from error
        status: Mapping[str, Any] = answer["status"]
        return status


def _own_server(environ: Mapping[str, str]) -> str:
    """Raises ConfigError."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("auth.kubernetes: this is no pod of a cluster; set server, ca and token")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
