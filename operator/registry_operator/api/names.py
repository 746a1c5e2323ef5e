"""Names and labels of a Registry's children: valid wherever Kubernetes takes them, never shared by two Registries."""

import hashlib
import re
from typing import Final

LABEL_MAX: Final = 63
"""Of a label's value, and of a DNS label (RFC 1123): the names of Services and pods' host names."""

REGISTRY_LABEL: Final = "regatta.dev/registry"
"""On every child, with the Registry's name."""
DESIRED_HASH: Final = "regatta.dev/desired-hash"
"""Annotation of every child: the SHA-256 of what was asked for when it was last applied."""
FIELD_MANAGER: Final = "regatta"
METRICS: Final = "-metrics"
"""Ending of the name of the Service with which metrics are found."""
OPERATOR_LABELS: Final = {"app.kubernetes.io/component": "operator"}
"""Of the operator's own pods."""

_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def child_name(registry: str, suffix: str = "") -> str:
    """The name of a child, such as `team-config` for `team` and `-config`.

    Every child's name is a DNS label that starts with a letter, as Services demand. Where the Registry's name is too
    long or is no such label (it may hold dots), a part of it is kept for the reader and a hash of all of it makes the
    name unique.
    """
    if _DNS_LABEL.fullmatch(registry) and len(registry) + len(suffix) <= LABEL_MAX:
        return registry + suffix
    readable = re.sub(r"[^a-z0-9]+", "-", registry)
    if not readable[:1].isalpha():
        readable = f"r-{readable}"
    return _shortened(readable, registry, suffix)


def label_value(registry: str) -> str:
    """A Registry's name as a label's value: itself, or shortened with a hash where it is over 63 characters."""
    return registry if len(registry) <= LABEL_MAX else _shortened(registry, registry, "")


def child_labels(registry: str) -> dict[str, str]:
    """The labels of every child."""
    return {
        "app.kubernetes.io/name": "registry",
        "app.kubernetes.io/instance": label_value(registry),
        "app.kubernetes.io/managed-by": "regatta",
        "app.kubernetes.io/part-of": "regatta",
        REGISTRY_LABEL: label_value(registry),
    }


def _shortened(readable: str, whole: str, suffix: str) -> str:
    ending = f"-{hashlib.sha256(whole.encode()).hexdigest()[:10]}{suffix}"
    return readable[: LABEL_MAX - len(ending)].rstrip("-.") + ending
