"""The images that pods run or shall run, by the name of the registry they come from."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from registry_operator.api.kinds import Kind
from registry_operator.cluster.kubernetes.api import Api
from registry_operator.cluster.protocol import Manifest

POD: Final = Kind("v1", "Pod", "pods")
FRESH: Final = 240.0
"""Seconds for which one list of all pods serves, as it may be of many."""

_REFERENCE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+\.[A-Za-z0-9.-]+|[A-Za-z0-9.-]+:[0-9]+|localhost|\[[0-9a-fA-F:]+\](?::[0-9]+)?)(?P<port>:[0-9]+)?"
    r"/(?P<path>[a-z0-9]+[a-z0-9._/-]*)(?P<tag>:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?P<digest>@sha(?:256|512):[0-9a-f]+)?"
)
"""What a container's `image` and `imageID` are, where they name a registry: distribution's grammar of references."""
_STATUSES: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")


class PodImages:
    """Of the pods in some namespaces; None is all of them."""

    def __init__(self, api: Api, namespaces: Sequence[str | None]) -> None:
        self._api = api
        self._namespaces = namespaces
        self._known: Mapping[str, Collection[str]] = {}
        self._listed = -FRESH
        self._listing = asyncio.Lock()

    async def of(self, hosts: Collection[str]) -> Collection[str]:
        """Those of registries by these names. Raises Rejected, Unavailable."""
        async with self._listing:
            if time.monotonic() - self._listed >= FRESH:
                self._known = await self._list()
                self._listed = time.monotonic()
        return sorted({image for host in hosts for image in self._known.get(_full(host), ())})

    async def _list(self) -> Mapping[str, Collection[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for namespace in self._namespaces:
            pods, _ = await self._api.list_all(POD, namespace)
            for pod in pods:
                for host, image in _images(pod):
                    found[host].add(image)
        return found


def _images(pod: Manifest) -> Iterator[tuple[str, str]]:
    """The registry's name with its port, and the image there."""
    for text in _texts(pod):
        match = _REFERENCE.fullmatch(text)
        if match is None:
            continue
        host = _full(match["host"] + (match["port"] or ""))
        if match["tag"]:
            yield host, match["path"] + match["tag"]
        if match["digest"]:
            yield host, match["path"] + match["digest"]
        if not match["tag"] and not match["digest"]:
            yield host, f"{match['path']}:latest"


def _texts(pod: Manifest) -> Iterator[str]:
    spec: Any = pod.get("spec", {})
    status: Any = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return
    for field in _CONTAINERS:
        yield from (container.get("image", "") for container in spec.get(field) or ())
    for field in _STATUSES:
        for container in status.get(field) or ():
            yield from (container.get(name, "").partition("://")[2] or container.get(name, "") for name in _NAMES)


_NAMES: Final = ("image", "imageID")
"""Of a container's status. Some runtimes write `docker-pullable://` before the latter."""


def _full(host: str) -> str:
    """With the port that is meant."""
    named = host.rpartition(":")[2]
    return host if named.isdecimal() and not host.endswith("]") else f"{host}:443"
