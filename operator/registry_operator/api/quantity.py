"""Kubernetes quantities: `1000m`, `1` and `1e0` are the same amount."""

import re
from decimal import Decimal
from typing import Final

_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}

_QUANTITY: Final = re.compile(
    rf"(?P<number>[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?)(?P<suffix>{'|'.join(_FACTORS)})"
)


def amount(quantity: str | int) -> Decimal:
    """The number a quantity stands for. Raises ValueError where it stands for none."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 500m, 2 or 10Gi")
    return Decimal(match["number"]) * _FACTORS[match["suffix"]]
