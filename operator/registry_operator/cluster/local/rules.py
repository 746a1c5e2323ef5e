"""The CEL rules of a CRD (`x-kubernetes-validations`), evaluated as the API server does.

A rule that speaks of `oldSelf` is a transition rule: it is checked only where the replaced object has a value at the
same place.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cel
from cel.stdlib import add_stdlib_to_context

from registry_operator.cluster.local.quantity import CEL_FUNCTIONS

_RESERVED: Final = frozenset(
    [
        *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"),
        *("let", "loop", "package", "namespace", "return", "var", "void", "while"),
    ]
)
_REASONS: Final = {
    "FieldValueInvalid": "Invalid value: ",
    "FieldValueForbidden": "Forbidden: ",
    "FieldValueRequired": "Required value: ",
    "FieldValueDuplicate": "Duplicate value: ",
}
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Violation:
    """One finding, as a Status of the API server lists it among its causes."""

    field: str
    message: str


class _Rule:
    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source: str = source["rule"]
        self._program = cel.compile(self._source)
        self._message: str = source.get("message", f"failed rule: {self._source}")
        expression = source.get("messageExpression")
        self._message_program = cel.compile(expression) if expression else None
        self._reason: str = source.get("reason", "FieldValueInvalid")
        self._field_path: str = source.get("fieldPath", "")
        self.is_transition = "oldSelf" in self._program.variables()

    def check(self, variables: Mapping[str, Any], value: Any, path: str) -> Violation | None:
        context = cel.Context(dict(variables))
        add_stdlib_to_context(context)
        for name, function in CEL_FUNCTIONS.items():
            context.add_function(name, function)
        try:
            if self._program.execute(context):
                return None
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            return Violation(path, f'Invalid value: "{_kind_of(value)}": {error} evaluating rule: {self._source}')
        return Violation(path + self._field_path, _REASONS[self._reason] + self._shown(value) + self._text(context))

    def _shown(self, value: Any) -> str:
        """A scalar is shown before the message, where the finding is about its value."""
        if self._reason != "FieldValueInvalid" or self._field_path or isinstance(value, dict | list):
            return ""
        return f"{json.dumps(value, ensure_ascii=False)}: "

    def _text(self, context: cel.Context) -> str:
        if self._message_program is None:
            return self._message
        try:
            return str(self._message_program.execute(context))
        except (KeyError, RuntimeError, TypeError, ValueError):
            return self._message


class Rules:
    """All rules of a schema, compiled once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Compile. Raises ValueError for a rule that is no CEL."""
        self._rules = [_Rule(source) for source in schema.get("x-kubernetes-validations", ())]
        self._properties = {name: Rules(child) for name, child in schema.get("properties", {}).items()}
        self._others = _nested(schema.get("additionalProperties"))
        self._items = _nested(schema.get("items"))
        self._map_keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])

    def check(self, value: Any, old: Any = None) -> list[Violation]:
        """What of the object breaks a rule; `old` is the object it replaces, None where there is none."""
        return list(self._check(value, _ABSENT if old is None else old, ""))

    def _check(self, value: Any, old: Any, path: str) -> Iterator[Violation]:
        if value is None:
            return
        if self._rules:
            variables = {"self": self._escaped(value)}
            if old is not _ABSENT:
                variables["oldSelf"] = self._escaped(old)
            for rule in self._rules:
                if rule.is_transition and old is _ABSENT:
                    continue
                if violation := rule.check(variables, value, path):
                    yield violation
        if isinstance(value, dict):
            yield from self._check_members(value, old, path)
        elif isinstance(value, list) and self._items:
            for index, item in enumerate(value):
                yield from self._items._check(item, self._same_item(item, old), f"{path}[{index}]")

    def _check_members(self, value: dict[str, Any], old: Any, path: str) -> Iterator[Violation]:
        for name, member in value.items():
            rules = self._properties.get(name, self._others)
            if rules:
                old_member = old.get(name, _ABSENT) if isinstance(old, dict) else _ABSENT
                place = f"{path}.{name}" if name in self._properties and path else name
                place = place if name in self._properties else f"{path}[{name}]"
                yield from rules._check(member, old_member, place)

    def _same_item(self, item: Any, old: Any) -> Any:
        """The old item with the same keys; items of lists without keys have no past."""
        if not self._map_keys or not isinstance(old, list) or not isinstance(item, dict):
            return _ABSENT
        wanted = [item.get(key) for key in self._map_keys]
        return next((other for other in old if [other.get(key) for key in self._map_keys] == wanted), _ABSENT)

    def _escaped(self, value: Any) -> Any:
        """The value with the names of declared properties as a rule writes them."""
        if isinstance(value, dict):
            members = {}
            for name, member in value.items():
                rules = self._properties.get(name, self._others)
                declared = name in self._properties
                members[_escape(name) if declared else name] = rules._escaped(member) if rules else member
            return members
        if isinstance(value, list) and self._items:
            return [self._items._escaped(item) for item in value]
        return value


def _nested(schema: Any) -> Rules | None:
    return Rules(schema) if isinstance(schema, Mapping) else None


def _escape(name: str) -> str:
    """A property's name as an identifier of CEL, by the rules of the Kubernetes API."""
    if name in _RESERVED:
        return f"__{name}__"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and "__" not in name:
        return name
    for plain, escaped in (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")):
        name = name.replace(plain, escaped)
    return name


def _kind_of(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")
