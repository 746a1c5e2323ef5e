"""The base of the API's types: what a class says here holds in Python and, through `crd.py`, on the API server."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from registry_operator.api.kinds import Kind

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule of the CRD, and the sentence that a person reads when it does not hold.

    Rules keep to core CEL, `matches` and `quantity(…).compareTo(…)`: local mode evaluates them, too.
    """

    expression: str
    message: str

    def as_schema(self) -> dict[str, str]:
        """One entry of `x-kubernetes-validations`."""
        return {"rule": self.expression, "message": self.message}


class Model(BaseModel):
    """An object of the API: immutable, camelCase in manifests, described by docstrings, closed to unknown fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """What must hold between the object's fields, and between its old and new state. The API server checks them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The object's schema with its rules."""
        json_schema = handler.resolve_ref_schema(handler(schema))
        if rules := cls.all_rules():
            json_schema[VALIDATIONS] = [rule.as_schema() for rule in rules]
        return json_schema

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The rules as written and as derived."""
        return cls.rules


class Resource(Model):
    """A kind of object of ours, as the API server keeps it."""

    model_config = ConfigDict(extra="ignore")

    resource: ClassVar[Kind]
    singular: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[tuple[str, str, str], ...]]
    """Columns of `kubectl get`: title, type, path."""


class OneOf(Model):
    """An object of which exactly one member is given. Structural schemas have no unions, so a rule says it."""

    @classmethod
    def members(cls) -> list[str]:
        """The members' names as manifests spell them."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The derived rule first: the others may rely on it."""
        present = ", ".join(f"has(self.{member})" for member in cls.members())
        return (Rule(f"[{present}].exists_one(given, given)", cls._one_of_message()), *cls.rules)

    @classmethod
    def _one_of_message(cls) -> str:
        *others, last = cls.members()
        return f"exactly one must be given: {', '.join(others)} or {last}" if others else f"{last} must be given"

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(self._one_of_message())
        return self


@dataclass(frozen=True, slots=True)
class Matching:
    """Annotates a string that must match a regular expression as a whole, with a message instead of the expression."""

    expression: str
    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Checks in Python."""
        pattern = re.compile(self.expression)

        def check(value: str) -> str:
            if not pattern.fullmatch(value):
                raise ValueError(self.message)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Checks on the API server."""
        json_schema = handler(schema)
        quoted = self.expression.replace("\\", "\\\\").replace("'", "\\'")
        rule = Rule(f"self.matches('^(?:{quoted})$')", self.message)
        return {**json_schema, VALIDATIONS: [rule.as_schema()]}


Opaque = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object that is handed on as it is; Kubernetes itself judges it when the child that holds it is applied."""
