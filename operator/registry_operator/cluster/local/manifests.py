"""Manifest files as the input of local mode: read, checked, and followed as they change.

What stands in the files is what shall be, as with `kubectl apply --prune`: an object whose manifest goes is deleted.
Objects remember their file, so that another `up` with other files leaves them alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from yaml import YAMLError

from registry_operator.api.crd import crd
from registry_operator.api.kinds import CONFIG_MAP, PERSISTENT_VOLUME_CLAIM, REGISTRY, SECRET
from registry_operator.api.registry import Registry
from registry_operator.cluster.local.documents import Document, NoManifest, explain, parse
from registry_operator.cluster.local.inputs import check_input
from registry_operator.cluster.local.schema import Invalid, Validator
from registry_operator.cluster.local.store import PERSISTENT_VOLUME, ObjectStore, key_of
from registry_operator.cluster.protocol import Key, Manifest

SOURCE: Final = "regatta.dev/source"
"""Annotation of what came from a manifest: the file's path."""

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_INPUTS: Final = (SECRET, CONFIG_MAP, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, REGISTRY)
"""What may be given, in the order of applying: what a Registry names comes before it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the files held. `problems` are for people, with their place."""

    documents: tuple[Document, ...]
    problems: tuple[str, ...]
    broken: frozenset[Path] = frozenset()
    """Files that couldn't be read: of what they held before, nothing is known to have gone."""
    ignored: tuple[str, ...] = ()
    """Kinds that aren't an input, with their place."""


@dataclass(slots=True)
class ManifestFiles:
    """The files and directories that were given."""

    paths: tuple[Path, ...]
    _seen: Mapping[Path, tuple[int, int, int]] | None = field(default=None)
    _missing_since_last: bool = False

    def __post_init__(self) -> None:
        self.paths = tuple(path.absolute() for path in self.paths)

    def covers(self, source: str) -> bool:
        """Whether a file of this name would be read."""
        path = Path(source)
        return path in self.paths or path.parent in self.paths

    def changed(self) -> bool:
        """Whether any file changed since the last call.

        A file that goes counts once it is still gone at the next call: many editors remove a file for an instant when
        they save it.
        """
        now = self._signatures()
        before, gone_before = self._seen, self._missing_since_last
        gone = before is not None and bool(before.keys() - now.keys())
        self._missing_since_last = gone and not gone_before
        if self._missing_since_last:
            return False
        self._seen = now
        return now != before

    def read(self) -> Reading:
        """Parse all files."""
        documents: list[Document] = []
        problems: list[str] = []
        ignored: list[str] = []
        broken: set[Path] = set()
        for path in self._files():
            try:
                found = list(parse(path))
            except (OSError, UnicodeDecodeError, YAMLError, NoManifest) as error:
                problems.append(explain(path, error))
                broken.add(path)
                continue
            for document in found:
                kind = _kind_of(document.manifest)
                if kind in {(known.api_version, known.name) for known in _INPUTS}:
                    documents.append(document)
                elif kind[1] == REGISTRY.name:
                    problems.append(
                        f'{document.place}: no matches for kind "{kind[1]}" in version "{kind[0]}": '
                        f"the version here is {REGISTRY.api_version}"
                    )
                else:
                    ignored.append(f"{document.place}: {kind[1]} means nothing in local mode and is left out")
        return Reading(tuple(documents), tuple(problems), frozenset(broken), tuple(ignored))

    def _files(self) -> Iterator[Path]:
        for path in self.paths:
            if path.is_dir():
                for file in sorted(path.iterdir()):
                    if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file():
                        yield file
            else:
                yield path

    def _signatures(self) -> dict[Path, tuple[int, int, int]]:
        signatures = {}
        for path in self._files():
            try:
                stat = path.stat()
            except OSError:
                continue
            signatures[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return signatures


class Admission:
    """Checks documents as the API server would, and puts them into the store."""

    def __init__(self, store: ObjectStore, files: ManifestFiles, *, first_port: int | None) -> None:
        self._store = store
        self._files = files
        self._first_port = first_port
        self._validator = Validator(crd(Registry))

    def admit(self, reading: Reading) -> tuple[list[Manifest], list[str]]:
        """The objects as they would be stored, in the order of applying, and what is wrong with the others."""
        admitted: list[Manifest] = []
        problems = list(reading.problems)
        places: dict[Key, str] = {}
        first_port = self._first_port
        for document in reading.documents:
            try:
                manifest = self._admit_one(document.manifest)
            except Invalid as invalid:
                problems.append(f"{document.place}: {invalid}")
                continue
            key = key_of(manifest)
            if key in places:
                problems.append(f"{document.place}: {key.kind.name} {key.name} stands in {places[key]} as well")
                continue
            places[key] = document.place
            if key.kind == REGISTRY and first_port is not None:
                manifest["spec"]["service"]["port"], first_port = first_port, None
            metadata = manifest["metadata"]
            metadata["annotations"] = {**(metadata.get("annotations") or {}), SOURCE: str(document.path)}
            admitted.append(manifest)
        admitted.sort(key=lambda manifest: _INPUTS.index(key_of(manifest).kind))
        return admitted, problems

    def store(self, admitted: Iterable[Manifest], reading: Reading) -> list[Key]:
        """Apply what was admitted; delete what the files no longer hold, and return its keys."""
        for manifest in admitted:
            self._store.apply(manifest)
        declared = {_declared_key(document.manifest) for document in reading.documents}
        gone = []
        for kind in reversed(_INPUTS):
            for manifest in self._store.list(kind):
                key, source = key_of(manifest), manifest["metadata"].get("annotations", {}).get(SOURCE)
                if source and key not in declared and self._files.covers(source) and Path(source) not in reading.broken:
                    self._store.delete(key, uid=manifest["metadata"]["uid"])
                    gone.append(key)
        return gone

    def is_ours(self, manifest: Manifest, reading: Reading) -> bool:
        """Whether a stored object takes part in this run: it came from our files, stands in them, or from none."""
        source = manifest["metadata"].get("annotations", {}).get(SOURCE)
        declared = {_declared_key(document.manifest) for document in reading.documents}
        return source is None or self._files.covers(source) or key_of(manifest) in declared

    def _admit_one(self, manifest: Manifest) -> Manifest:
        kind = _kind_of(manifest)
        if kind == (REGISTRY.api_version, REGISTRY.name):
            old = self._store.get(_declared_key(manifest))
            admitted = self._validator.admit(manifest, old)
        else:
            admitted = check_input(manifest)
        admitted["metadata"].setdefault("namespace", "default")
        return admitted


def _kind_of(manifest: Manifest) -> tuple[str, str]:
    return manifest["apiVersion"], manifest["kind"]


def _declared_key(manifest: Manifest) -> Key:
    """The key of a document that may be wrong in other parts."""
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = str(metadata.get("name", "")), str(metadata.get("namespace", "default"))
    return key_of({**manifest, "metadata": {"name": name, "namespace": namespace}})
