"""The values that specs are made of: names, sizes, times, and how lists merge."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from registry_operator.api.model import Matching, Model
from registry_server.config import check_schedule, check_time_zone

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matching(
        r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
        "must be an object's name: lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    ),
]
QuantityText = Annotated[
    str,
    Field(max_length=32),
    Matching(
        r"([1-9][0-9]*(\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*)([KMGTPE]i|[kMGTPE])?",
        "must be a size above zero, such as 10Gi or 500M",
    ),
]
DurationText = Annotated[
    str,
    Field(max_length=32),
    Matching(r"([1-9][0-9]{0,5}[hms]){1,3}", "must be a time such as 24h, 90m or 1h30m"),
]
Schedule = Annotated[
    str,
    Field(max_length=128),
    Matching(
        r"\s*([0-9A-Za-z*/,#-]+\s+){4}[0-9A-Za-z*/,#-]+\s*",
        "must be minute, hour, day of month, month and day of week, as in crontab: 15 2 * * *",
    ),
    AfterValidator(check_schedule),
]
RunName = Annotated[
    str, Field(max_length=16), Matching(r"[0-9]{8}T[0-9]{6}Z", "must be a run, such as 20261126T020000Z")
]
TimeZone = Annotated[
    str,
    Field(max_length=64),
    Matching(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", "must be the name of a time zone, such as Europe/Berlin or UTC"),
    AfterValidator(check_time_zone),
]

AS_SET: Final = {"x-kubernetes-list-type": "set"}


def map_by(*keys: str) -> dict[str, Any]:
    """A list whose items are told apart by some of their fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


_COMPONENT: Final = r"(\*{1,2}|\*?[a-z0-9._?-]+(\*[a-z0-9._?-]+)*\*?)"
"""One component of a repository's name, with wildcards. No nested repetition, so that matching takes linear time."""

Repositories = Annotated[
    tuple[
        Annotated[
            str,
            Field(max_length=255),
            Matching(
                rf"{_COMPONENT}(/{_COMPONENT})*",
                "must be a repository's name in lower case; * and ? stand for a part of a component, "
                "** for whole components, for example team/**",
            ),
        ],
        ...,
    ],
    Field(min_length=1, max_length=32, json_schema_extra=AS_SET),
]


class SecretReference(Model):
    """A Secret in the Registry's namespace."""

    name: ObjectName
    """Name of the Secret."""
