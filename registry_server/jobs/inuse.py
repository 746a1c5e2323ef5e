"""Which images run somewhere, by repository: whoever starts them again, or on another node, wants them still there."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from registry_server.jobs.references import leading_to
from registry_server.metadata.contract import Dated, Metadata
from registry_server.reference import Digest, Image


@dataclass(frozen=True, slots=True)
class InUse:
    """Of one registry."""

    _tags: Mapping[str, Collection[str]] = field(default_factory=dict)
    _digests: Mapping[str, Collection[Digest]] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """From `inuse` of a configuration."""
        tags: defaultdict[str, set[str]] = defaultdict(set)
        digests: defaultdict[str, set[Digest]] = defaultdict(set)
        for image in map(Image.parse, texts):
            if image.tag is not None:
                tags[image.repository].add(image.tag)
            if image.digest is not None:
                digests[image.repository].add(image.digest)
        return cls(tags, digests)

    def digests(self, repository: str) -> Collection[Digest]:
        """What runs by its digest."""
        return self._digests.get(repository, ())

    async def tags(self, metadata: Metadata, repository: str, tags: Mapping[str, Dated]) -> Collection[str]:
        """The tags that something runs by, or that lead to what runs."""
        used = set(self._tags.get(repository, ()))
        if digests := self.digests(repository):
            known = await metadata.references(repository)
            leading = leading_to(digests, {digest: one for digest, one in known.items() if one is not None})
            used.update(tag for tag, dated in tags.items() if dated.digest in leading)
        return used


NOTHING: Final = InUse()
