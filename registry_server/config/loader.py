"""Reads a configuration file into a `Config`, and writes one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from registry_server.config.model import Config


class ConfigError(Exception):
    """What is wrong with a configuration: one line a fault, each with its place and what to do."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right, and what its author should still know."""

    config: Config
    warnings: tuple[str, ...] = ()


def load(path: Path, environ: Mapping[str, str]) -> Loaded:  # noqa: ARG001
    """The configuration in the file at `path`; raises ConfigError with every fault found."""
    try:
        return Loaded(Config.model_validate(yaml.load(path.read_bytes(), yaml.CSafeLoader)))
    except ValidationError as error:
        faults = (f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(*faults) from None


def dump(config: Config) -> str:
    """The file that `load` reads as `config`: keys sorted, only what was set, the same bytes for the same settings."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    return yaml.dump(settings, Dumper=yaml.CSafeDumper, sort_keys=True, default_flow_style=False, allow_unicode=True)
