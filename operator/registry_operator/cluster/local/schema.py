"""Validation of a manifest against a CRD's structural schema, with the API server's own words.

The order is the API server's: unknown fields (a request it cannot decode), then defaults, then types and bounds, then
the CEL rules (`rules.py`), which are left out where a finding makes them unsafe to evaluate. The messages were taken
from kube-apiserver 1.36 and are compared with a real one in the tests.
"""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from registry_operator.cluster.local.metadata import FIELDS, check_metadata
from registry_operator.cluster.local.rules import Rules, Violation
from registry_operator.cluster.protocol import Manifest

Schema = Mapping[str, Any]

_KNOWN_KEYWORDS: Final = frozenset(
    [
        *(
            "type",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "description",
            "default",
            "enum",
            "format",
        ),
        *(
            "nullable",
            "pattern",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
        ),
        *("multipleOf", "minItems", "maxItems", "minProperties", "maxProperties", "x-kubernetes-validations"),
        *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string", "x-kubernetes-list-type"),
        *("x-kubernetes-list-map-keys", "x-kubernetes-map-type", "title", "example", "externalDocs"),
    ]
)
_KNOWN_FORMATS: Final = frozenset({"int32", "int64", "float", "double", "date-time", "password"})
_INT_OR_STRING: Final = [{"type": "integer"}, {"type": "string"}]
_LARGEST_INTEGER: Final = 2**63 - 1
_RULES_SKIPPED: Final = Violation(
    "<nil>",
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)


class Invalid(Exception):
    """A manifest the API server would refuse. `lines` hold one finding each."""

    def __init__(self, headline: str, lines: Sequence[str] = ()) -> None:
        self.headline = headline
        self.lines = tuple(lines)
        super().__init__("\n".join([headline, *(f"* {line}" for line in self.lines)]))


class UnsupportedSchema(Exception):
    """The CRD uses a keyword that this module would silently ignore."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """A violation, and whether the API server goes on to the CEL rules after it."""

    violation: Violation
    blocks_rules: bool


class Validator:
    """Checks manifests of one CRD version."""

    def __init__(self, crd: Manifest) -> None:
        """Take the CRD's only or first served version. Raises UnsupportedSchema."""
        version = next(version for version in crd["spec"]["versions"] if version["served"])
        self.kind: str = crd["spec"]["names"]["kind"]
        self.group: str = crd["spec"]["group"]
        self.version: str = version["name"]
        self._schema: Schema = version["schema"]["openAPIV3Schema"]
        _refuse_unknown_keywords(self._schema, "")
        self._rules = Rules(self._schema)

    def admit(self, manifest: Manifest, old: Manifest | None = None) -> Manifest:
        """The manifest with defaults filled in, as the API server would store it; `old` is what it replaces.

        Raises Invalid.
        """
        self._refuse_undecodable(manifest)
        admitted: Manifest = copy.deepcopy(manifest)
        _default(admitted, self._schema)
        findings = list(_structure(admitted, self._schema, ""))
        violations = [*check_metadata(admitted["metadata"]), *(finding.violation for finding in findings)]
        if any(finding.blocks_rules for finding in findings):
            violations.append(_RULES_SKIPPED)
        else:
            violations.extend(self._rules.check(admitted, old))
        if violations:
            name = admitted["metadata"].get("name", "")
            raise Invalid(f'The {self.kind} "{name}" is invalid:', [f"{v.field}: {v.message}" for v in violations])
        return admitted

    def _refuse_undecodable(self, manifest: Manifest) -> None:
        prefix = f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: '
        metadata = manifest.get("metadata")
        if not isinstance(metadata, dict):
            raise Invalid(f"{prefix}metadata must be an object")
        for field in ("labels", "annotations"):
            for value in (metadata.get(field) or {}).values():
                if not isinstance(value, str):
                    found = {"boolean": "bool", "integer": "number"}.get(_type_of(value), _type_of(value))
                    raise Invalid(
                        f"{prefix}json: cannot unmarshal {found} into Go struct field ObjectMeta.{field} of type string"
                    )
        unknown = sorted(
            [
                *(f"metadata.{field}" for field in metadata if field not in FIELDS),
                *_unknown_fields(
                    {key: value for key, value in manifest.items() if key != "metadata"}, self._schema, ""
                ),
            ]
        )
        if unknown:
            listed = ", ".join(f'unknown field "{field}"' for field in unknown)
            raise Invalid(f"{prefix}strict decoding error: {listed}")


def _refuse_unknown_keywords(schema: Schema, path: str) -> None:
    unknown = schema.keys() - _KNOWN_KEYWORDS
    if schema.get("x-kubernetes-int-or-string") and schema.get("anyOf") == _INT_OR_STRING:
        unknown -= {"anyOf"}
    if schema.get("format", "int32") not in _KNOWN_FORMATS:
        unknown = unknown | {f"format: {schema['format']}"}
    if unknown:
        raise UnsupportedSchema(f"{path or 'the schema'}: local validation does not know {', '.join(sorted(unknown))}")
    for name, child in schema.get("properties", {}).items():
        _refuse_unknown_keywords(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(child := schema.get(keyword), Mapping):
            _refuse_unknown_keywords(child, f"{path}[]")


def _unknown_fields(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_fields(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, member in value.items():
            child = _child_schema(schema, name)
            if child is not None:
                yield from _unknown_fields(member, child, _join(path, name))
            elif not schema.get("x-kubernetes-preserve-unknown-fields") and (
                path or name not in {"apiVersion", "kind"}
            ):
                yield _join(path, name)


def _default(value: Any, schema: Schema) -> None:
    """Drop the nulls of an object that are not allowed, then fill in defaults, in place."""
    if isinstance(value, list):
        for item in value:
            _default(item, schema.get("items", {}))
    elif isinstance(value, dict):
        for name in [name for name, member in value.items() if member is None]:
            if not (_child_schema(schema, name) or {}).get("nullable"):
                del value[name]
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
        for name, member in value.items():
            if declared := _child_schema(schema, name):
                _default(member, declared)


def _child_schema(schema: Schema, name: str) -> Schema | None:
    child = schema.get("properties", {}).get(name)
    if child is None:
        child = schema.get("additionalProperties")
    if child is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return child if isinstance(child, Mapping) else None


def _structure(value: Any, schema: Schema, path: str) -> Iterator[_Finding]:
    """What is wrong with types, bounds and required fields, parents before children."""
    if wrong_type := _wrong_type(value, schema, path):
        yield wrong_type
        if schema.get("type") == "integer" and _type_of(value) == "number":
            yield _blocking(
                "<nil>", f'Invalid value: "": Checked value must be of type integer (default format) in {path}'
            )
        return
    if value is None:
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(json.dumps(choice) for choice in schema["enum"])
        yield _blocking(path, f"Unsupported value: {json.dumps(value)}: supported values: {supported}")
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path)
    elif isinstance(value, list):
        yield from _list(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, schema, path)


def _wrong_type(value: Any, schema: Schema, path: str) -> _Finding | None:
    expected = schema.get("type")
    found = _type_of(value)
    if value is None and (schema.get("nullable") or expected is None):
        return None
    if schema.get("x-kubernetes-int-or-string"):
        expected, fits = "integer,string", found in {"integer", "string"}
    else:
        fits = expected in {None, found} or (expected == "number" and found == "integer")
    if not fits:
        return _blocking(path, f'Invalid value: "{found}": {path} in body must be of type {expected}: "{found}"')
    if schema.get("format") == "date-time" and not _is_date_time(value):
        shown = json.dumps(value, ensure_ascii=False)
        return _blocking(path, f"Invalid value: {shown}: {path} in body must be of type date-time: {shown}")
    return None


def _string(value: str, schema: Schema, path: str) -> Iterator[_Finding]:
    shown = json.dumps(value, ensure_ascii=False)
    if len(value) > schema.get("maxLength", math.inf):
        yield _blocking(path, f"Too long: may not be more than {schema['maxLength']} bytes")
    if len(value) < schema.get("minLength", 0):
        yield _finding(
            path, f"Invalid value: {shown}: {path} in body should be at least {schema['minLength']} chars long"
        )
    elif "pattern" in schema and not re.search(_re_from_re2(schema["pattern"]), value):
        yield _finding(path, f"Invalid value: {shown}: {path} in body should match '{schema['pattern']}'")


def _number(value: float, schema: Schema, path: str) -> Iterator[_Finding]:
    minimum, maximum = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    prefix = f"Invalid value: {value}: {path} in body should be"
    if schema.get("exclusiveMinimum") and value <= minimum:
        yield _finding(path, f"{prefix} greater than {minimum}")
    elif value < minimum:
        yield _finding(path, f"{prefix} greater than or equal to {minimum}")
    if schema.get("exclusiveMaximum") and value >= maximum:
        yield _finding(path, f"{prefix} less than {maximum}")
    elif value > maximum:
        yield _finding(path, f"{prefix} less than or equal to {maximum}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield _finding(path, f"{prefix} a multiple of {schema['multipleOf']}")


def _object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[_Finding]:
    for name in schema.get("required", ()):
        if name not in value:
            yield _blocking(_join(path, name), "Required value")
    if len(value) > schema.get("maxProperties", math.inf):
        yield _blocking(path, _too_many(len(value), schema["maxProperties"]))
    if len(value) < schema.get("minProperties", 0):
        least = schema["minProperties"]
        yield _finding(path, f"Invalid value: {len(value)}: {path} in body should have at least {least} properties")
    for name, member in value.items():
        child = _child_schema(schema, name)
        if child is not None and not (path == "" and name == "metadata"):
            yield from _structure(member, child, _join(path, name))


def _list(value: list[Any], schema: Schema, path: str) -> Iterator[_Finding]:
    if len(value) > schema.get("maxItems", math.inf):
        yield _blocking(path, _too_many(len(value), schema["maxItems"]))
    if len(value) < schema.get("minItems", 0):
        least = schema["minItems"]
        yield _finding(path, f"Invalid value: {len(value)}: {path} in body should have at least {least} items")
    for index, item in enumerate(value):
        yield from _structure(item, schema.get("items", {}), f"{path}[{index}]")
    yield from _duplicates(value, schema, path)


def _duplicates(value: list[Any], schema: Schema, path: str) -> Iterator[_Finding]:
    identities: list[Any] = []
    if schema.get("x-kubernetes-list-type") == "set":
        identities = value
    elif schema.get("x-kubernetes-list-type") == "map":
        keys = schema["x-kubernetes-list-map-keys"]
        identities = [{key: item.get(key) for key in keys} for item in value if isinstance(item, dict)]
    for index, identity in enumerate(identities):
        if identity in identities[:index]:
            shown = json.dumps(identity, separators=(",", ":"), ensure_ascii=False)
            yield _finding(f"{path}[{index}]", f"Duplicate value: {shown}")


def _blocking(field: str, message: str) -> _Finding:
    return _Finding(Violation(field, message), blocks_rules=True)


def _finding(field: str, message: str) -> _Finding:
    return _Finding(Violation(field, message), blocks_rules=False)


def _too_many(count: int, limit: int) -> str:
    return f"Too many: {count}: must have at most {limit} item{'' if limit == 1 else 's'}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _type_of(value: Any) -> str:
    """The JSON schema type of a value read from YAML."""
    if value is None:
        return "null"
    if type(value) is int and abs(value) > _LARGEST_INTEGER:
        return "number"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _is_date_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _re_from_re2(pattern: str) -> str:
    r"""RE2 (Go) reads `$` and `\z` as the end of the text, Python also as before a last newline."""
    return re.sub(r"(?<!\\)\$$", r"\\Z", pattern)
