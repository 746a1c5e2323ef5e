"""Which upstream a repository belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass

from registry_server.proxy.upstream import Upstream
from registry_server.registry.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Place:
    """Where the content of a repository comes from."""

    upstream: Upstream
    repository: str
    """Its name there, without our prefix."""


class Places:
    """The upstreams by their prefixes; the empty one's are all repositories that no other claims."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._main = upstreams.get("")
        # The longest prefix first: `hub/private` may be another upstream than `hub`.
        prefixes = sorted(filter(None, upstreams), key=len, reverse=True)
        self._prefixed = [(f"{prefix}/", upstreams[prefix]) for prefix in prefixes]

    def of(self, repository: str) -> Place | None:
        """None for a repository of the registry's own."""
        for prefix, upstream in self._prefixed:
            if repository.startswith(prefix):
                return Place(upstream, repository.removeprefix(prefix))
        return None if self._main is None else Place(self._main, repository)

    def refuse_writing(self, repository: str) -> None:
        """Raises Unsupported for a repository that comes from an upstream."""
        place = self.of(repository)
        if place is not None:
            host = place.upstream.host
            raise Unsupported(f"this registry is a pull-through cache of {host} for {repository}; push to {host}")
