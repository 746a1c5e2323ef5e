"""Templates to manifests: Jinja2 that fails on what is missing, values through `tojson`, read by YAML's C loader."""

import base64
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from registry_operator.api.text import yaml_safe_json

Manifest = dict[str, Any]


def render(template: str, /, **values: Any) -> Manifest:
    """The manifest of a template, without the members whose value is null."""
    manifest = _without_nulls(yaml.load(_template(template).render(values), Loader=yaml.CSafeLoader))
    assert isinstance(manifest, dict)  # noqa: S101
    return manifest


def to_base64(text: str) -> str:
    """As the data of Secrets is written."""
    return base64.b64encode(text.encode()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("registry_operator.plan"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701, YAML: `tojson` quotes
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tojson": yaml_safe_json, "base64": to_base64}
    return environment


@cache
def _template(name: str) -> Template:
    return _environment().get_template(f"{name}.yaml.j2")


def _without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_nulls(member) for name, member in value.items() if member is not None}
        case list():
            return [_without_nulls(member) for member in value]
        case _:
            return value
