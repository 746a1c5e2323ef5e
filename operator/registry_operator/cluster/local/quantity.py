"""The CEL functions over Kubernetes quantities (`10Gi`, `500m`) that a CRD's rules may call.

They are those of the API server's CEL quantity library. The evaluator passes only JSON-like values to
functions, so a quantity travels as a map with one entry that no schema yields.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from registry_operator.api.quantity import amount

_KEY: Final = "\0quantity"

_Value = Mapping[str, str]


def _is_quantity(text: str) -> bool:
    try:
        amount(text)
    except ValueError:
        return False
    return True


def _value(number: Decimal) -> _Value:
    return {_KEY: format(number.normalize(), "f")}


def _number(value: _Value) -> Decimal:
    return Decimal(value[_KEY])


def _operand(value: _Value | int) -> Decimal:
    return Decimal(value) if isinstance(value, int) else _number(value)


def _compare(left: _Value, right: _Value) -> int:
    return int(_number(left).compare(_number(right)))


def _as_integer(value: _Value) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"{number} is no integer")
    return int(number)


CEL_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "isQuantity": _is_quantity,
    "quantity": lambda text: _value(amount(text)),
    "compareTo": _compare,
    "isLessThan": lambda left, right: _compare(left, right) < 0,
    "isGreaterThan": lambda left, right: _compare(left, right) > 0,
    "add": lambda left, right: _value(_number(left) + _operand(right)),
    "sub": lambda left, right: _value(_number(left) - _operand(right)),
    "sign": lambda value: _compare(value, _value(Decimal(0))),
    "isInteger": lambda value: _number(value) == int(_number(value)),
    "asInteger": _as_integer,
    "asApproximateFloat": lambda value: float(_number(value)),
}
"""By the name a rule calls them, as functions or as methods."""
