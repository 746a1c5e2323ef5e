"""A pod's volumes as files and directories, the way the kubelet would mount them.

Secrets and ConfigMaps are swapped as a whole: a process that reads sees the old files or the new ones, never a mixture.
A claim is a link to a directory that nothing here ever deletes.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from registry_operator.api.kinds import CONFIG_MAP, PERSISTENT_VOLUME_CLAIM, SECRET
from registry_operator.cluster.local.state import StateDirectory, make_private_directory, write_private
from registry_operator.cluster.local.store import ObjectStore, decoded_data, volume_of
from registry_operator.cluster.protocol import Key, Manifest

_CURRENT: Final = "..data"


class CannotMount(Exception):
    """A volume needs an object or a feature that is not there; the message says which."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """Mounts the volumes of the pods of one state directory."""

    state: StateDirectory
    store: ObjectStore

    def mount(self, namespace: str, pod: Manifest, *, scratch: Path) -> None:
        """Mount all volumes of a pod's spec. Raises CannotMount.

        An empty directory at a place of the machine's own, such as /tmp, is not made: `scratch` stands for it.
        """
        shutil.rmtree(scratch, ignore_errors=True)
        make_private_directory(scratch)
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for mount in pod["containers"][0].get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            if "emptyDir" in volume:
                self._mount_empty(Path(mount["mountPath"]))
            elif "persistentVolumeClaim" in volume:
                claim = self._claim(namespace, volume["persistentVolumeClaim"]["claimName"])
                _link(self._inside(mount, volume), _folder_in(claim, mount))
            else:
                write_atomically(self._inside(mount, volume), self._content(namespace, volume))

    def refresh(self, namespace: str, pod: Manifest) -> None:
        """Bring the files of Secrets and ConfigMaps up to date. Those whose object has gone stay, as on a node."""
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        for mount in pod["containers"][0].get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            if "emptyDir" in volume or "persistentVolumeClaim" in volume:
                continue
            try:
                write_atomically(self._inside(mount, volume), self._content(namespace, volume))
            except CannotMount:
                continue

    def _inside(self, mount: Mapping[str, Any], volume: Mapping[str, Any]) -> Path:
        """The mount's path, which `Placement` chose inside the state directory."""
        path = Path(mount["mountPath"])
        if "subPath" in mount and "persistentVolumeClaim" not in volume:
            raise CannotMount(
                f"the mount of {mount['name']} at {path} uses subPath, which local mode knows of claims alone"
            )
        if ".." in path.parts or not path.is_relative_to(self.state.root / "registries"):
            raise CannotMount(f"the mount of {mount['name']} at {path} is outside of {self.state.root}")
        return path

    def _claim(self, namespace: str, name: str) -> Path:
        given = volume_of(self.store.get, Key(PERSISTENT_VOLUME_CLAIM, namespace, name))
        if given is not None and not given.is_dir():
            raise CannotMount(f"the volume of claim {name} is {given}, where there is no directory")
        return given or make_private_directory(self.state.claim(namespace, name))

    def _mount_empty(self, path: Path) -> None:
        if path.is_relative_to(self.state.root / "registries"):
            shutil.rmtree(path, ignore_errors=True)
            make_private_directory(path)

    def _content(self, namespace: str, volume: Mapping[str, Any]) -> dict[str, bytes]:
        """The files of a volume by their path."""
        return dict(self._files(namespace, volume, volume["name"]))

    def _files(self, namespace: str, source: Mapping[str, Any], volume: str) -> Iterator[tuple[str, bytes]]:
        if "secret" in source:
            secret = source["secret"]
            key = Key(SECRET, namespace, secret.get("secretName") or secret["name"])
            yield from self._selected(key, secret)
        elif "configMap" in source:
            yield from self._selected(Key(CONFIG_MAP, namespace, source["configMap"]["name"]), source["configMap"])
        elif "projected" in source:
            for part in source["projected"]["sources"]:
                yield from self._files(namespace, part, volume)
        else:
            kinds = ", ".join(sorted(source.keys() - {"name"}))
            raise CannotMount(f"the volume {volume} is of a type that local mode does not know: {kinds}")

    def _selected(self, key: Key, source: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        found = self.store.get(key)
        if found is None and not source.get("optional"):
            raise CannotMount(f'{key.kind.name.lower()} "{key.name}" not found in namespace {key.namespace}')
        data = decoded_data(found)
        if "items" not in source:
            yield from data.items()
            return
        for item in source["items"]:
            if item["key"] in data:
                yield item["path"], data[item["key"]]
            elif not source.get("optional"):
                raise CannotMount(f'{key.kind.name.lower()} "{key.name}" has no key {item["key"]}')


def _folder_in(claim: Path, mount: Mapping[str, Any]) -> Path:
    """The folder of a claim that is mounted, made if it is not there, as the kubelet does."""
    within = PurePosixPath(mount.get("subPath", ""))
    if within.is_absolute() or ".." in within.parts:
        raise CannotMount(f"{within} is no path inside the claim")
    folder = claim / within
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory hold these files and no others, in one step for whoever reads them.

    They are links into `..data`, itself a link to a directory that is written once and then replaced, as the kubelet
    does it.
    """
    current = directory / _CURRENT
    if current.exists() and _read(current) == dict(files):
        return
    make_private_directory(directory)
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    for name, content in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CannotMount(f"{name!r} is no path inside a volume")
        write_private(fresh / name, content)
    _link(current, Path(fresh.name))
    tops = {PurePosixPath(name).parts[0] for name in files}
    for name in tops:
        _link(directory / name, Path(_CURRENT) / name)
    for entry in directory.iterdir():
        if entry.name in {*tops, _CURRENT, fresh.name}:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _read(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _link(path: Path, target: Path) -> None:
    """Make `path` a link to `target`, replacing a link that is there, in one step."""
    if path.is_symlink() and path.readlink() == target:
        return
    make_private_directory(path.parent)
    scratch = path.with_name(f"..{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(path)
