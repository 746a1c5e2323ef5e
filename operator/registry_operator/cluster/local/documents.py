"""YAML files as lists of manifests, read as kubectl reads them, with the place of each for messages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry_operator.cluster.protocol import Manifest


@dataclass(frozen=True, slots=True)
class Document:
    """One manifest of a file."""

    manifest: Manifest
    path: Path
    line: int

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.path}:{self.line}"


class NoManifest(Exception):
    """A YAML document that is no Kubernetes object; it begins on `line`."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(problem)


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: a key given twice is an error, and a date is a string."""


class _Lines(dict[str, Any]):
    """A mapping that remembers the line it begins on."""

    line = 0


def _mapping(loader: _Loader, node: yaml.MappingNode) -> _Lines:
    loader.flatten_mapping(node)
    result = _Lines()
    result.line = node.start_mark.line + 1
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise NoManifest(key_node.start_mark.line + 1, f"key {key!r} already set in map")
        result[str(key)] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(path: Path) -> Iterator[Document]:
    """The manifests of a file, those of a List one by one.

    Raises OSError, UnicodeDecodeError, YAMLError, NoManifest.
    """
    for document in yaml.load_all(path.read_text(), Loader=_Loader):
        if document is None:
            continue
        if not isinstance(document, _Lines):
            raise NoManifest(1, "a document is no mapping with apiVersion, kind and metadata")
        items = document["items"] if document.get("kind") == "List" else [document]
        for item in items:
            if not isinstance(item, _Lines):
                raise NoManifest(document.line, "an item of the List is no object")
            for name in ("apiVersion", "kind"):
                if not isinstance(item.get(name), str) or not item[name]:
                    raise NoManifest(item.line, f"{name} not set")
            yield Document(_plain(item), path, item.line)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def explain(path: Path, error: Exception) -> str:
    """One line for what `parse` raised: file, line, what is wrong."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such file or directory"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: no valid YAML: {error.problem}"
    if isinstance(error, NoManifest):
        return f"{path}:{error.line}: {error}"
    return f"{path}: {error.strerror if isinstance(error, OSError) else error}"
