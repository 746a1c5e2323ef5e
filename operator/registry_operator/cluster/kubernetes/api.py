"""The API server as JSON over HTTP: the one place that speaks to it, apart from kopf's watches.

No typed classes: those of `kubernetes` cost as much memory as a thousand registries do. What we take of it is the pool
and the finding of credentials (kubeconfig with exec plugins and OIDC, or the pod's ServiceAccount with its token).

    Api.request ──► the answer's JSON
                └─► Refusal       4xx: the server understood and said no
                └─► Unavailable   no connection, 401, 408, 429, 5xx: worth a retry
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from prometheus_client import Counter
from yaml import YAMLError
from yarl import URL

from registry_operator.api.kinds import Kind
from registry_operator.api.text import yaml_safe_json
from registry_operator.cluster.protocol import Rejected, Unavailable

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml; charset=utf-8"
"""Read as YAML, so plain JSON won't do; with a charset the client sends the text that it is given as it is."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

REQUEST_SECONDS: Final = 30.0
SILENCE_SECONDS: Final = 70.0
"""How long a watch may stay silent: the server sends a bookmark every minute."""

GOODBYE_SECONDS: Final = 0.25

PAGE: Final = 500
"""Objects a page of a LIST, so that neither side holds a whole fleet as one text."""

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

RETRIABLE: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
"""4xx that say nothing about the request itself: an expired token is read anew, the others ask to come back later."""

REQUESTS = Counter(
    "regatta_operator_api_requests", "Requests to the Kubernetes API server, without watches.", ["method", "code"]
)

logger = logging.getLogger(__name__)


class Refusal(Rejected):
    """A 4xx answer. `str()` is the server's own message."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class CredentialsError(Exception):
    """No usable credentials. The message says what was tried."""


def path(kind: Kind, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Where the API server serves an object, or with no `name` a collection (of all namespaces with no `namespace`)."""
    root = "/apis/" if "/" in kind.api_version else "/api/"
    parts = [kind.api_version]
    if kind.namespaced and namespace is not None:
        parts += ["namespaces", quote(namespace)]
    parts.append(kind.plural)
    if name is not None:
        parts.append(quote(name))
    if subresource is not None:
        parts.append(subresource)
    return root + "/".join(parts)


class Api:
    """One API server, one connection pool."""

    def __init__(self, configuration: Configuration, *, user_agent: str, default_namespace: str) -> None:
        self.configuration = configuration
        self.default_namespace = default_namespace
        self._http = RESTClientObject(configuration)
        self._user_agent = user_agent

    @classmethod
    async def connect(cls, *, user_agent: str) -> Self:
        """By KUBECONFIG, else as the pod's ServiceAccount, else by `~/.kube/config`. Sends nothing yet.

        Raises CredentialsError.
        """
        # netrc would be looked up in a thread for every request; a proxy is taken from the kubeconfig's `proxy-url`.
        configuration = Configuration(client_session_kwargs={"trust_env": False})
        kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and SERVICE_ACCOUNT.exists()
        try:
            if in_pod and "KUBECONFIG" not in os.environ:
                load_incluster_config(configuration)  # type: ignore[no-untyped-call]
                namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
            elif _any_exists(kubeconfig):
                loader = await load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=kubeconfig, client_configuration=configuration, persist_config=False
                )
                namespace = loader.current_context["context"].get("namespace") or "default"
            else:
                raise FileNotFoundError("there is no such file, and this is no pod")
            return cls(configuration, user_agent=user_agent, default_namespace=namespace)
        # The last three: what the loader stumbles over in a file that is YAML and no kubeconfig.
        except (ConfigException, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CredentialsError(
                f"no usable credentials for a Kubernetes API server in {kubeconfig}: {' '.join(str(error).split())}; "
                "set KUBECONFIG to a working kubeconfig file (try it with `kubectl get namespaces`)"
            ) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()
        # Those of cancelled requests are still ending TLS, and aiohttp waits only for the others.
        await asyncio.sleep(GOODBYE_SECONDS)

    async def request(
        self,
        method: str,
        where: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
    ) -> dict[str, Any]:
        """Send one request and return the answer's JSON object. Raises Refusal, Unavailable."""
        try:
            response = await self._send(method, where, query=query, body=body, content_type=content_type)
            async with response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            REQUESTS.labels(method, "error").inc()
            raise Unavailable(f"{self.configuration.host}: {error or type(error).__name__}") from error
        REQUESTS.labels(method, str(response.status)).inc()
        _raise_for_status(response.status, raw)
        answer = json.loads(raw)
        assert isinstance(answer, dict)  # noqa: S101
        return answer

    async def list_all(
        self, kind: Kind, namespace: str | None = None, *, selector: str = ""
    ) -> tuple[list[dict[str, Any]], int]:
        """All objects of a kind as of one moment, and that moment's resourceVersion. Raises Refusal, Unavailable."""
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        items: list[dict[str, Any]] = []
        while True:
            page = await self.request("GET", path(kind, namespace), query=query)
            items += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                break
        for item in items:
            # The items of a LIST don't say what they are.
            item.setdefault("apiVersion", kind.api_version)
            item.setdefault("kind", kind.name)
        return items, int(page["metadata"]["resourceVersion"])

    async def watch(
        self, kind: Kind, namespace: str | None, *, selector: str, since: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of a kind, each with only its object's metadata, until the server ends the stream or falls silent.

        With no `since` every object that exists comes first, as ADDED. Raises Refusal, Unavailable.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "300", "labelSelector": selector}
        if since is not None:
            query["resourceVersion"] = since
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            response = await self._send(
                "GET", path(kind, namespace), query=query, accept=METADATA_ONLY, timeout=timeout
            )
            async with response:
                if response.status != HTTPStatus.OK:
                    _raise_for_status(response.status, await response.read())
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Refusal(event["object"].get("message", "the watch failed"), code=event["object"]["code"])
                    yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{self.configuration.host}: {error or type(error).__name__}") from error

    async def _send(
        self,
        method: str,
        where: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: aiohttp.ClientTimeout | float = REQUEST_SECONDS,  # noqa: ASYNC109 - handed on to aiohttp
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": self._user_agent}
        if token := await self.configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        url = f"{self.configuration.host}{where}" + (f"?{urlencode(query)}" if query else "")
        if isinstance(timeout, float):
            timeout = aiohttp.ClientTimeout(total=timeout)
        sent = yaml_safe_json(body) if content_type == APPLY else body
        answer = await self._http.request(  # type: ignore[no-untyped-call]
            method, URL(url, encoded=True), headers=headers, body=sent, _request_timeout=timeout
        )
        response = answer.response
        assert isinstance(response, aiohttp.ClientResponse)  # noqa: S101
        return response


def _any_exists(files: str) -> bool:
    return any(Path(file).expanduser().is_file() for file in files.split(os.pathsep))


def _raise_for_status(code: int, raw: bytes) -> None:
    if code < 400:
        return
    message = _message(raw) or f"HTTP {code}"
    if code in RETRIABLE or code >= 500:
        raise Unavailable(f"the API server answered {code}: {message}")
    raise Refusal(message, code=code)


def _message(raw: bytes) -> str:
    """The message of a `Status` object; proxies in front of an API server answer with anything."""
    try:
        status = json.loads(raw)
    except ValueError:
        return raw[:200].decode(errors="replace").strip()
    return str(status.get("message", "")) if isinstance(status, dict) else ""
