"""The protocol's rules, between handlers and storage: what may be pushed, what a reference means, what a list holds."""

from dataclasses import dataclass

from registry_server.metadata.contract import Metadata
from registry_server.registry.blobs import Blobs
from registry_server.registry.lists import Lists
from registry_server.registry.manifests import Manifests, Sparse
from registry_server.registry.referrers import Referrers
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

    @classmethod
    def over(cls, storage: Storage, metadata: Metadata, *, sparse: Sparse) -> "Registry":
        return cls(
            blobs=Blobs(storage, metadata),
            uploads=Uploads(storage, metadata),
            manifests=Manifests(storage, metadata, sparse),
            referrers=Referrers(metadata),
            lists=Lists(metadata),
        )
