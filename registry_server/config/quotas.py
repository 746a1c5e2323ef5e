"""The block `quotas`: how much repositories may take."""

from typing import Annotated

from pydantic import ByteSize, Field

from registry_server.config.globs import Glob
from registry_server.config.section import Bool, Int, Section


class Quota(Section):
    """A limit for each repository that matches one of `repositories`, or for all of them `together`.

    Bytes are those of the distinct blobs and manifests that a repository holds, as a number or as 500MB, 20GiB; what
    several repositories hold counts in each. Without `bytes` and `tags` nothing is limited, only measured. Followed
    while serving.
    """

    repositories: Annotated[tuple[Glob, ...], Field(min_length=1)]
    together: Bool = False
    bytes: Annotated[ByteSize, Field(ge=0)] | None = None
    tags: Annotated[Int, Field(ge=0)] | None = None
