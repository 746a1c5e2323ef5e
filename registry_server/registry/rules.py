"""What the configuration asks of manifests beyond the protocol: `validation` and `manifests`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from registry_server.config import Config
from registry_server.config.patterns import Patterns
from registry_server.reference import Digest
from registry_server.registry.errors import ManifestInvalid
from registry_server.registry.manifest import INDEXES, Manifest

Sparse = Literal["none", "indexes", "all"]
"""Which manifests may be pushed although something they list is not in the repository."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one configuration."""

    sparse: Sparse = "indexes"
    platforms: frozenset[tuple[str, str]] = frozenset()
    """Architecture and system of the images that must be there although an index may be sparse."""
    allowed: Patterns | None = None
    denied: Patterns | None = None

    @classmethod
    def from_config(cls, config: Config) -> Self:
        rules = config.validation.rules
        listed = frozenset((one.architecture, one.os) for one in rules.indexes.platformlist)
        sparse: Sparse = config.manifests.sparse
        match rules.indexes.platforms:
            case "all":
                sparse = "none"
            case "none":
                sparse = "indexes"
            case "list":
                sparse = "indexes" if listed else "none"
        return cls(
            sparse=sparse,
            platforms=listed if rules.indexes.platforms == "list" else frozenset(),
            allowed=Patterns(rules.urls.allow) if rules.urls.allow else None,
            denied=Patterns(rules.urls.deny) if rules.urls.deny else None,
        )

    def check_urls(self, manifest: Manifest) -> None:
        """Raises ManifestInvalid for a layer that is said to be where it must not be."""
        if self.allowed is None and self.denied is None:
            return
        for layer in json.loads(manifest.content).get("layers") or ():
            for url in _urls(layer):
                if not self._allows(url):
                    raise ManifestInvalid(f"a layer's URL is not allowed here: {url[:200]!r}")

    def required(self, manifest: Manifest) -> Iterator[Digest]:
        """What of an index must be in the repository."""
        if self.sparse == "none":
            yield from manifest.manifests
        elif self.platforms and manifest.media_type in INDEXES:
            for one, digest in zip(json.loads(manifest.content)["manifests"], manifest.manifests, strict=True):
                platform = one.get("platform")
                if isinstance(platform, dict) and (platform.get("architecture"), platform.get("os")) in self.platforms:
                    yield digest

    def _allows(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        return (
            parts.scheme in ("http", "https")
            and not parts.fragment
            and (self.allowed is None or self.allowed.found_in(url))
            and (self.denied is None or not self.denied.found_in(url))
        )


def _urls(layer: Any) -> list[str]:
    urls = layer.get("urls") or []
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ManifestInvalid("layers: urls must be a list of texts")
    return urls
