"""The protocol's rules, between handlers and storage: what may be pushed, what a reference means, what a list holds."""

from dataclasses import dataclass
from datetime import timedelta

from registry_server.metadata.contract import Metadata
from registry_server.registry.blobs import Blobs
from registry_server.registry.holds import Holds
from registry_server.registry.lists import Lists, Pages
from registry_server.registry.manifests import Manifests
from registry_server.registry.quotas import Quotas
from registry_server.registry.referrers import Referrers
from registry_server.registry.rules import Rules
from registry_server.registry.uploads import Uploads
from registry_server.storage.contract import Storage


@dataclass(frozen=True, slots=True)
class Registry:
    """The services of one registry."""

    blobs: Blobs
    uploads: Uploads
    manifests: Manifests
    referrers: Referrers
    lists: Lists
    quotas: Quotas
    holds: Holds

    @classmethod
    def over(cls, storage: Storage, metadata: Metadata, *, rules: Rules, pages: Pages, grace: timedelta) -> "Registry":
        """`grace`: what nothing refers to is not collected within this time of somebody's asking for it."""
        quotas = Quotas(metadata)
        holds = Holds(storage, metadata, grace)
        return cls(
            blobs=Blobs(storage, metadata, holds),
            uploads=Uploads(storage, metadata, quotas, holds),
            manifests=Manifests(storage, metadata, rules, quotas, holds),
            referrers=Referrers(metadata),
            lists=Lists(metadata, pages),
            quotas=quotas,
            holds=holds,
        )
