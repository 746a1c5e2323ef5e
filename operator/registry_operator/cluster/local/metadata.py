"""What the API server demands of any object's metadata, in its words."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry_operator.cluster.local.rules import Violation

FIELDS: Final = frozenset(
    [
        *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "uid"),
        *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        *("managedFields", "selfLink"),
    ]
)
_LONGEST_NAME: Final = 253
_LONGEST_LABEL: Final = 63
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


def check_metadata(metadata: Mapping[str, Any]) -> Iterator[Violation]:
    """Findings on the name, the namespace and the labels."""
    name, namespace = metadata.get("name"), metadata.get("namespace", "default")
    if not name:
        yield Violation("metadata.name", "Required value: name or generateName is required")
    elif not isinstance(name, str) or not _DNS_SUBDOMAIN.fullmatch(name):
        yield Violation(
            "metadata.name",
            f"Invalid value: {json.dumps(name)}: a lowercase RFC 1123 subdomain must consist of lower case "
            "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
            f"(e.g. 'example.com', regex used for validation is '{_DNS_SUBDOMAIN.pattern}')",
        )
    elif len(name) > _LONGEST_NAME:
        yield Violation("metadata.name", f'Invalid value: "{name}": must be no more than {_LONGEST_NAME} characters')
    if not isinstance(namespace, str) or not _DNS_LABEL.fullmatch(namespace) or len(namespace) > _LONGEST_LABEL:
        yield Violation(
            "metadata.namespace", f"Invalid value: {json.dumps(namespace)}: must be a lowercase RFC 1123 label"
        )
    for value in (metadata.get("labels") or {}).values():
        yield from _check_label_value(value)


def _check_label_value(value: str) -> Iterator[Violation]:
    if len(value) > _LONGEST_LABEL:
        yield Violation("metadata.labels", f'Invalid value: "{value}": must be no more than {_LONGEST_LABEL} bytes')
    if not _LABEL_VALUE.fullmatch(value):
        yield Violation(
            "metadata.labels",
            f"Invalid value: {json.dumps(value)}: a valid label must be an empty string or consist of alphanumeric "
            "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or "
            f"'my_value',  or '12345', regex used for validation is '{_LABEL_VALUE.pattern}')",
        )
