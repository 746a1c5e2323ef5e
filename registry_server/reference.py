"""How content is named: repositories, tags and digests, as the distribution specification's grammar has them."""

import hashlib
import re
from functools import lru_cache
from typing import Any, NamedTuple, Self

MAX_REPOSITORY_LENGTH = 255
"""distribution's limit; it also keeps every component within a file system's 255 bytes."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"(sha256):([a-f0-9]{64})|(sha512):([a-f0-9]{128})")

ALGORITHMS = ("sha256", "sha512")
CANONICAL = "sha256"
"""The algorithm that names content in storage, whatever digest a client used (distribution's `digest.Canonical`)."""


class InvalidDigest(ValueError):
    """A text that is no digest of an algorithm we know."""


class Digest(NamedTuple):
    """A content digest, such as `sha256:e3b0c442…`. Its parts are safe to use in a path."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidDigest."""
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise InvalidDigest(f"{text[:160]!r} is no sha256 or sha512 digest")
        return cls(match[1] or match[3], match[2] or match[4])

    @classmethod
    def of(cls, content: bytes, algorithm: str = CANONICAL) -> Self:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    @classmethod
    def from_hasher(cls, hasher: Any) -> Self:
        return cls(hasher.name, hasher.hexdigest())


@lru_cache(maxsize=4096)
def is_repository(name: str) -> bool:
    """Whether `name` is a repository name within the length that clients and file systems bear."""
    return len(name) <= MAX_REPOSITORY_LENGTH and _REPOSITORY.fullmatch(name) is not None


class Image(NamedTuple):
    """An image within a registry: by its tag, or by its digest."""

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`team/app:v1` or `team/app@sha256:…`. Raises ValueError."""
        repository, at, rest = text.partition("@")
        if at:
            image = cls(repository, digest=Digest.parse(rest))
        else:
            repository, _, rest = text.rpartition(":")
            image = cls(repository, tag=rest)
        if not is_repository(image.repository) or (image.tag is not None and not is_tag(image.tag)):
            raise ValueError(f"{text[:400]!r} is no image, such as team/app:v1 or team/app@sha256:…")
        return image


def is_tag(name: str) -> bool:
    return _TAG.fullmatch(name) is not None
