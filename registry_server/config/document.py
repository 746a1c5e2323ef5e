"""YAML as a tree that remembers where each value stands; `loader` reads it, `environment` overrides parts of it."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from registry_server.config.scalars import PlainFloat, PlainInt

Keys = tuple[str | int, ...]
"""The way to a value: keys of maps, indices of lists."""

_TAG = "tag:yaml.org,2002:"
_MAX_VALUES = 100_000
"""No configuration comes near; what aliases of aliases expand to would exhaust the memory."""

_MAX_DEPTH = 64

_REPLACED_WHEN_REPEATED = ("storage", "auth")
"""Blocks that distribution reads as plain maps: the last of several counts alone, the others are merged."""


class DocumentError(Exception):
    """A text that is not YAML, or not the kind of it that configures anything; str() starts with the place."""


@dataclass(slots=True)
class Value:
    """A value and its place, `config.yml:12` or the environment variable it comes from."""

    data: Any
    """A scalar, `dict[str, Value]` or `list[Value]`."""
    place: str

    def at(self, keys: Keys) -> "Value":
        """The value `keys` lead to, or the nearest above it that exists."""
        value = self
        for key in keys:
            try:
                value = value.data[key]
            except (KeyError, IndexError, TypeError):
                break
        return value

    def find(self, keys: Keys) -> "Value | None":
        """The value `keys` lead to, if there is one."""
        value: Value | None = self
        for key in keys:
            value = value.data.get(key) if value is not None and isinstance(value.data, dict) else None
        return value

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data


def dotted(keys: Keys) -> str:
    """`http.headers`, `access.policies[0].role`."""
    return re.sub(r"\.(\[\d+\])", r"\1", ".".join(f"[{key}]" if isinstance(key, int) else key for key in keys))


@dataclass(slots=True)
class _Reader:
    """One pass over one text."""

    source: str
    numbered: bool
    loader: yaml.CSafeLoader
    warnings: list[str] = field(default_factory=list)
    count: int = 0
    open_nodes: set[int] = field(default_factory=set)

    def place(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}" if self.numbered else self.source

    def read(self, node: yaml.Node, keys: Keys, place: str) -> Value:
        self.count += 1
        if self.count > _MAX_VALUES:
            raise DocumentError(f"{place}: has more than {_MAX_VALUES:,} values with its aliases expanded; write fewer")
        if id(node) in self.open_nodes:
            raise DocumentError(f"{place}: {dotted(keys)}: the alias refers to a block it is part of; remove it")
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Value(self.mapping(node, keys), place)
            if isinstance(node, yaml.SequenceNode):
                items = enumerate(node.value)
                return Value([self.read(item, (*keys, i), self.place(item)) for i, item in items], place)
            assert isinstance(node, yaml.ScalarNode)  # noqa: S101  (libyaml has no fourth kind)
            return Value(self.scalar(node, keys), place)
        finally:
            self.open_nodes.discard(id(node))

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        for key, child in node.value:
            if key.tag == f"{_TAG}merge":
                merged |= self.merges(child, keys)
            elif isinstance(key, yaml.ScalarNode):
                inside = (*keys, key.value)
                value = self.read(child, inside, self.place(key))
                own[key.value] = self.repeated(own[key.value], value, inside) if key.value in own else value
            else:
                raise DocumentError(f"{self.place(key)}: a key must be a plain text")
        return merged | own

    def merges(self, node: yaml.Node, keys: Keys) -> dict[str, Value]:
        """What `<<: *one` or `<<: [*one, *two]` brings; of several the first counts."""
        merged: dict[str, Value] = {}
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            value = self.read(source, keys, self.place(node))
            if not isinstance(value.data, dict):
                raise DocumentError(f"{value.place}: << merges maps only")
            merged |= value.data
        return merged

    def repeated(self, earlier: Value, later: Value, keys: Keys) -> Value:
        merges = isinstance(earlier.data, dict) and isinstance(later.data, dict)
        if merges and keys[0] not in _REPLACED_WHEN_REPEATED:
            effect = "both are merged and the later value of a setting counts"
            result = Value(_merged(earlier.data, later.data), later.place)
        else:
            effect, result = "only the later one counts", later
        line = earlier.place.rpartition(":")[2] if self.numbered else earlier.place
        self.warnings.append(f"{later.place}: {dotted(keys)}: repeats line {line}; {effect}; remove one of them")
        return result

    def scalar(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        if node.tag in (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value"):
            return node.value
        if node.tag not in (f"{_TAG}null", f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float"):
            raise DocumentError(f"{self.place(node)}: {dotted(keys)}: nothing here takes a value of type {node.tag}")
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            raise DocumentError(
                f"{self.place(node)}: {dotted(keys)}: is not a {node.tag.removeprefix(_TAG)}; put a text in quotes"
            ) from None
        if isinstance(value, int) and not isinstance(value, bool):
            value = PlainInt(value)
            value.text = node.value
        elif isinstance(value, float):
            value = PlainFloat(value)
            value.text = node.value
        return value


def _merged(earlier: dict[str, Value], later: dict[str, Value]) -> dict[str, Value]:
    merged = dict(earlier)
    for key, value in later.items():
        old = merged.get(key)
        if old is not None and isinstance(old.data, dict) and isinstance(value.data, dict):
            value = Value(_merged(old.data, value.data), value.place)  # noqa: PLW2901
        merged[key] = value
    return merged


def read(text: str | bytes, source: str, *, numbered: bool = True) -> tuple[Value, list[str]]:
    """The tree of a YAML text, and warnings about repeated keys.

    Places are `source:line`, or `source` when the text is not `numbered`. Aliases and `<<` are expanded; a number keeps
    its text; dates stay text. Raises DocumentError.
    """
    try:
        _check_depth(text, source)
        loader = yaml.CSafeLoader(text)
        node = loader.get_single_node()
        reader = _Reader(source, numbered, loader)
        if node is None:
            return Value(None, f"{source}:1" if numbered else source), []
        return reader.read(node, (), reader.place(node)), list(dict.fromkeys(reader.warnings))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if numbered and error.problem_mark else ""
        raise DocumentError(f"{source}{line}: is not valid YAML: {_explain(error)}") from None
    except (yaml.YAMLError, UnicodeError):
        raise DocumentError(f"{source}: has characters that no YAML text may have; save it as plain UTF-8") from None
    except RecursionError:
        raise DocumentError(f"{source}: nests aliases too deeply; nothing here needs that") from None


def _check_depth(text: str | bytes, source: str) -> None:
    """Refuses what would overflow the stack of libyaml's composer, which recurses without a bound."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise DocumentError(f"{source}: is nested deeper than {_MAX_DEPTH} levels; nothing here needs that")


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if "tab character" in problem:
        return f"{problem}; indent with spaces"
    if "mapping values are not allowed" in problem or "cannot start any token" in problem:
        return f"{problem}; put texts with special characters in quotes and indent with spaces"
    if "single document" in (error.context or ""):
        return "it holds several documents; keep one"
    return f"{problem}; check the indentation and quotes above"
