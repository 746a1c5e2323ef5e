"""Where content may lie: the drivers of `storage`, and of whatever else keeps content."""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from registry_server.config.objectstores import GCS, S3, Azure
from registry_server.config.section import FilePath, Int, Section

DRIVERS: Final = ("filesystem", "s3", "gcs", "azure")


class Filesystem(Section):
    """The filesystem driver; `maxthreads` bounds the blocking file operations of a worker."""

    rootdirectory: FilePath = Path("/var/lib/registry")
    maxthreads: Annotated[Int, Field(ge=1)] = 100


class Drivers(Section):
    """Exactly one driver."""

    filesystem: Filesystem | None = None
    s3: S3 | None = None
    gcs: GCS | None = None
    azure: Azure | None = None

    @property
    def driver(self) -> str:
        """The name of the one that is set."""
        return next(name for name in DRIVERS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _exactly_one_driver(self) -> Self:
        given = [name for name in DRIVERS if getattr(self, name) is not None]
        if not given:
            raise ValueError("has no driver; add filesystem: {rootdirectory: /var/lib/registry}, or s3, gcs or azure")
        if len(given) > 1:
            raise ValueError(f"has {len(given)} drivers, {' and '.join(given)}; keep the one that holds the content")
        return self
