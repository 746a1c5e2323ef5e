"""What we know of the cluster: fed by watches, by the answers to our own writes and by LISTs, read by the reconcile.

Three feeds that don't know each other agree by `resourceVersion`: the newer state wins, whichever feed brings it and
however late. (Since 1.35 Kubernetes promises that these compare as integers within a kind; with etcd they do.)
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from registry_operator.api.kinds import Kind
from registry_operator.cluster.protocol import Key, Manifest


def key_of(kind: Kind, manifest: Manifest) -> Key:
    """The key of an object of a kind."""
    metadata = manifest["metadata"]
    return Key(kind, metadata.get("namespace"), metadata["name"])


def version_of(manifest: Manifest) -> int:
    """The object's resourceVersion."""
    return int(manifest["metadata"]["resourceVersion"])


@dataclass(slots=True)
class _Entry:
    manifest: Manifest
    version: int
    observed: bool
    """Whether a watch or a LIST has shown this version, not only the answer to our own write."""


class Cache:
    """Objects by key, indexed by namespace and the value of one label. What it returns is shared: never change it."""

    def __init__(self, kinds: Iterable[Kind], *, index_label: str) -> None:
        self.kinds: Final = frozenset(kinds)
        self._index_label = index_label
        self._entries: dict[Kind, dict[Key, _Entry]] = {kind: {} for kind in self.kinds}
        self._by_label: dict[tuple[Kind, str | None, str], set[Key]] = defaultdict(set)
        self._deleted: dict[Kind, dict[Key, int]] = {kind: {} for kind in self.kinds}
        self._listed: dict[Kind, int] = dict.fromkeys(self.kinds, -1)

    def get(self, key: Key) -> Manifest | None:
        """The object, if it is known."""
        entry = self._entries[key.kind].get(key)
        return entry.manifest if entry else None

    def select(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        """The known objects of a kind that carry all of `labels`."""
        labels = labels or {}
        entries = self._entries[kind]
        value = labels.get(self._index_label)
        candidates: Iterable[Key] = (
            entries
            if value is None or namespace is None
            else sorted(self._by_label.get((kind, namespace, value), ()), key=lambda key: key.name)
        )
        return [
            entries[key].manifest
            for key in candidates
            if namespace in (None, key.namespace)
            and labels.items() <= entries[key].manifest["metadata"].get("labels", {}).items()
        ]

    def count(self, kind: Kind) -> int:
        """How many objects of a kind are known."""
        return len(self._entries[kind])

    def observe(self, kind: Kind, manifest: Manifest) -> bool:
        """Take in what a watch shows. True if nobody has looked at this version yet.

        The echo of our own write counts as new, too: its answer may hold what somebody else changed a moment before.
        """
        return self._put(kind, manifest, observed=True)

    def remember(self, kind: Kind, manifest: Manifest) -> None:
        """Take in the answer to our own write, so that a read after it never sees less."""
        self._put(kind, manifest, observed=False)

    def forget(self, kind: Kind, manifest: Manifest) -> bool:
        """Take in that an object was deleted, as of the manifest's resourceVersion. True if it was known."""
        return self._remove(key_of(kind, manifest), version_of(manifest))

    def replace(
        self, kind: Kind, manifests: Iterable[Manifest], *, version: int, namespace: str | None = None
    ) -> list[Manifest]:
        """Take in a LIST (of a namespace, or of all): what it lacks is gone, unless younger than it.

        Returns the objects that a watch has missed, added, changed or deleted.
        """
        # An answer to a write may be late by as much as a request lasts, by no means from before the last LIST.
        self._deleted[kind] = {
            key: deleted for key, deleted in self._deleted[kind].items() if deleted > self._listed[kind]
        }
        self._listed[kind] = version
        listed = {key_of(kind, manifest): manifest for manifest in manifests}
        missed = [manifest for manifest in listed.values() if self.observe(kind, manifest)]
        vanished = [
            (key, entry)
            for key, entry in self._entries[kind].items()
            if key not in listed and entry.version <= version and namespace in (None, key.namespace)
        ]
        for key, entry in vanished:
            self._remove(key, version)
            missed.append(entry.manifest)
        return missed

    def _put(self, kind: Kind, manifest: Manifest, *, observed: bool) -> bool:
        key, version = key_of(kind, manifest), version_of(manifest)
        if version <= self._deleted[kind].get(key, -1):
            return False
        entry = self._entries[kind].get(key)
        if entry and version < entry.version:
            return False
        if entry and version == entry.version:
            news = observed and not entry.observed
            entry.observed |= observed
            return news
        # Who changed which field is a third of an object's size and of no use here.
        manifest["metadata"].pop("managedFields", None)
        if entry:
            self._unindex(key, entry.manifest)
        self._entries[kind][key] = _Entry(manifest, version, observed)
        if (value := self._index_value(manifest)) is not None:
            self._by_label[kind, key.namespace, value].add(key)
        return True

    def _remove(self, key: Key, version: int) -> bool:
        entry = self._entries[key.kind].get(key)
        if entry and entry.version > version:
            return False
        # Held for a while: an answer to a write of ours may still be on its way with an older state.
        deleted = self._deleted[key.kind]
        deleted[key] = max(version, deleted.get(key, -1))
        if not entry:
            return False
        del self._entries[key.kind][key]
        self._unindex(key, entry.manifest)
        return True

    def _index_value(self, manifest: Manifest) -> str | None:
        value = manifest["metadata"].get("labels", {}).get(self._index_label)
        return value if isinstance(value, str) else None

    def _unindex(self, key: Key, manifest: Manifest) -> None:
        if (value := self._index_value(manifest)) is None:
            return
        keys = self._by_label[key.kind, key.namespace, value]
        keys.discard(key)
        if not keys:
            del self._by_label[key.kind, key.namespace, value]
