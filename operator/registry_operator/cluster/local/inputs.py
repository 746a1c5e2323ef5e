"""Checks of the kinds that are given beside Registries, in the API server's words: Secret, ConfigMap, claim, volume."""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final

from registry_operator.cluster.local.metadata import check_metadata
from registry_operator.cluster.local.rules import Violation
from registry_operator.cluster.local.schema import Invalid
from registry_operator.cluster.protocol import Manifest

_FIELDS: Final = {
    "Secret": ("data", "stringData", "type", "immutable"),
    "ConfigMap": ("data", "binaryData", "immutable"),
    "PersistentVolumeClaim": ("spec", "status"),
    "PersistentVolume": ("spec", "status"),
}
_DATA: Final = ("data", "stringData", "binaryData")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+")
_GO_TYPES: Final = {bool: "bool", int: "number", float: "number", list: "array", dict: "object"}


def check_input(manifest: Manifest) -> Manifest:
    """A copy of the manifest if it is well-formed as far as it matters here. Raises Invalid."""
    kind, metadata = manifest["kind"], manifest.get("metadata") or {}
    for problem in _undecodable(manifest):
        raise Invalid(f'{kind} in version "v1" cannot be handled as a {kind}: {problem}')
    if violations := [*check_metadata(metadata), *_bad_keys(manifest)]:
        lines = [f"{found.field}: {found.message}" for found in violations]
        raise Invalid(f'The {kind} "{metadata.get("name", "")}" is invalid:', lines)
    return {**manifest, "metadata": dict(metadata)}


def _undecodable(manifest: Manifest) -> Iterator[str]:
    kind = manifest["kind"]
    unknown = sorted(manifest.keys() - {"apiVersion", "kind", "metadata", *_FIELDS[kind]})
    if unknown:
        yield "strict decoding error: " + ", ".join(f'unknown field "{field}"' for field in unknown)
    for part in _DATA:
        is_encoded = part == "binaryData" or (part == "data" and kind == "Secret")
        for name, value in (manifest.get(part) or {}).items():
            if not isinstance(value, str):
                found = _GO_TYPES.get(type(value), "null")
                yield f"json: cannot unmarshal {found} into Go struct field {kind}.{part} of type string (key {name})"
            elif is_encoded and not _is_base64(value):
                yield f"illegal base64 data (key {name} of {part}; plain text goes into stringData)"


def _bad_keys(manifest: Manifest) -> Iterator[Violation]:
    for part in _DATA:
        for name in manifest.get(part) or {}:
            if not _KEY.fullmatch(name):
                yield Violation(
                    f"data[{name}]",
                    f"Invalid value: {json.dumps(name)}: a valid config key must consist of alphanumeric characters, "
                    "'-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
                    f"'{_KEY.pattern}')",
                )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return False
    return True
