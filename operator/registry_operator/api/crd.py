"""Writes CustomResourceDefinitions from the types: pydantic's JSON schema, made structural for the API server."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from registry_operator.api.backup import RegistryBackup
from registry_operator.api.kinds import GROUP, VERSION
from registry_operator.api.model import Resource
from registry_operator.api.registry import Registry

JsonObject = dict[str, Any]

KINDS: Final[tuple[type[Resource], ...]] = (Registry, RegistryBackup)


def crd(model: type[Resource]) -> JsonObject:
    """The CustomResourceDefinition of a kind."""
    kind = model.resource
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "regatta"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": model.singular,
                "shortNames": list(model.short_names),
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema(model)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path} for name, type_, path in model.columns
                    ],
                }
            ],
        },
    }


def schema(model: type[Resource]) -> JsonObject:
    """The structural schema of a kind, with every field and default, as `openAPIV3Schema` holds it."""
    generated = model.model_json_schema(by_alias=True)
    root = _structural(generated, generated.get("$defs", {}))
    properties = root["properties"]
    return {
        "description": root["description"],
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": properties["spec"],
            "status": properties["status"],
        },
    }


def documents() -> dict[str, str]:
    """The files of `crds/`: name to YAML text."""
    return {f"{model.resource.plural}.{GROUP}.yaml": _as_yaml(crd(model)) for model in KINDS}


def write(directory: Path) -> list[Path]:
    """Writes the files of `crds/` and returns those that changed."""
    directory.mkdir(parents=True, exist_ok=True)
    stale = outdated(directory)
    for path in stale:
        path.write_text(documents()[path.name])
    return stale


def outdated(directory: Path) -> list[Path]:
    """The files of `crds/` that aren't what the types say."""
    expected = {directory / name: text for name, text in documents().items()}
    return [path for path, text in expected.items() if not path.is_file() or path.read_text() != text]


def _structural(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """One schema without what structural schemas lack: `$ref`, null, `title`, `const`, closed objects."""
    node = _without_reference(node, definitions)
    node = _without_null(node, definitions)
    result: JsonObject = {}
    for keyword in sorted(node, key=_reading_order):
        value = node[keyword]
        match keyword:
            case "title" | "$defs":
                continue
            case "additionalProperties" if value is False:
                continue
            case "const":
                result["enum"] = [value]
            case "default":
                if value is not None:
                    result["default"] = _without_nulls(value)
            case "description":
                result["description"] = re.sub(r"\s*\n\s*", " ", value)
            case "properties":
                result["properties"] = {name: _structural(member, definitions) for name, member in value.items()}
            case "items" | "additionalProperties":
                result[keyword] = _structural(value, definitions)
            case _:
                result[keyword] = value
    return result


def _reading_order(keyword: str) -> int:
    """What a person looks for comes first."""
    order = ("description", "type", "properties", "default")
    return order.index(keyword) if keyword in order else len(order)


def _without_reference(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """Puts a definition in the place of its reference; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    beside = {keyword: value for keyword, value in node.items() if keyword != "$ref"}
    return {**definitions[node["$ref"].removeprefix("#/$defs/")], **beside}


def _without_null(node: JsonObject, definitions: JsonObject) -> JsonObject:
    """Unwraps `anyOf: [X, null]`: a member that may be absent is just not required."""
    alternatives = [member for member in node.get("anyOf", ()) if member != {"type": "null"}]
    if len(alternatives) != 1:
        return node
    around = {keyword: value for keyword, value in node.items() if keyword != "anyOf"}
    return {**_without_reference(alternatives[0], definitions), **around}


def _without_nulls(value: Any) -> Any:
    """A default with what isn't given left out. The rest is complete: the API server holds a default against the rules
    before it fills in the members' own."""
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(member) for name, member in value.items() if member is not None}


class _Dumper(yaml.SafeDumper):
    """Writes every value out: anchors and aliases are hard to read in a schema."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _as_yaml(document: JsonObject) -> str:
    header = (
        "# Written by `registry-operator crds --write` from the types in operator/registry_operator/api. Don't edit.\n"
    )
    return header + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)
