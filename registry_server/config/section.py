"""What every block of the configuration is made of."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, SecretStr, Strict, model_validator

from registry_server.config.scalars import AsText

Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
FilePath = Annotated[Path, AsText]
Secret = Annotated[SecretStr, AsText, PlainSerializer(SecretStr.get_secret_value, when_used="json")]
"""A text that is written back to a file, but shows nothing of itself anywhere else."""


class Section(BaseModel):
    """A block of the configuration: immutable, and without keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_default(cls, settings: Any) -> Any:
        """`tls:` with nothing after it is the same as no `tls`."""
        if not isinstance(settings, dict):
            return settings
        return {key: value for key, value in settings.items() if value is not None or key not in cls.model_fields}
