"""Retention: tags that rules let go. What they led to goes by garbage collection, with `deleteuntagged`.

for each repository: read its tags ─► decide (pure) ─► take away those that are still as they were read
"""

import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from registry_server.config import Retention, RetentionRule, format_duration
from registry_server.config.globs import compile_globs
from registry_server.jobs.inuse import InUse
from registry_server.jobs.occupancy import Lease, storage_time
from registry_server.metadata.contract import Dated, Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest
from registry_server.storage.contract import Storage
from registry_server.versions import Version, natural

JOB: Final = "retention"
SETTLED: Final = 60.0
"""Seconds after a push for which a tag always stays: two pushes within a store's unit of time can't be told apart."""

_OF_AN_IMAGE: Final = re.compile(r"sha256-([0-9a-f]{64})(\.[a-z]+)?", re.ASCII)
"""Tags of what belongs to an image: cosign's signatures, and the referrers of clients without the API for them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a tag."""

    repository: str
    tag: str
    digest: Digest
    goes: bool
    why: str
    """A sentence for people."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A repository was looked at."""

    tags: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the rules made ready."""

    repositories: re.Pattern[str]
    tags: re.Pattern[str]
    excluded: re.Pattern[str] | None
    settings: RetentionRule

    @classmethod
    def of(cls, rule: RetentionRule) -> Self:
        return cls(
            repositories=compile_globs(rule.repositories),
            tags=compile_globs(rule.tags),
            excluded=compile_globs(rule.exclude) if rule.exclude else None,
            settings=rule,
        )

    def covers(self, tag: str) -> bool:
        """Whether it speaks of a tag, in a repository of its."""
        return self.tags.fullmatch(tag) is not None and (self.excluded is None or self.excluded.fullmatch(tag) is None)

    def keeps(self, covered: Mapping[str, Dated], now: float, pulled: Mapping[Digest, float]) -> dict[str, str]:
        """Of the tags it covers, those that stay, and why."""
        keep, kept = self.settings.keep, dict[str, str]()
        if keep.last is not None:
            for tag in sorted(covered, key=lambda tag: _age(tag, covered[tag]), reverse=True)[: keep.last]:
                kept.setdefault(tag, f"one of the last {keep.last}")
        if keep.newerthan is not None:
            within = keep.newerthan.total_seconds()
            for tag in (tag for tag, dated in covered.items() if now - dated.at <= within):
                kept.setdefault(tag, f"pushed within {format_duration(keep.newerthan)}")
        if keep.pulledwithin is not None:
            within = keep.pulledwithin.total_seconds()
            for tag in (tag for tag, dated in covered.items() if now - pulled.get(dated.digest, 0.0) <= within):
                kept.setdefault(tag, f"pulled within {format_duration(keep.pulledwithin)}")
        if keep.patches is not None:
            for tag in _newest_patches(covered, keep.patches):
                kept.setdefault(tag, f"one of the newest {keep.patches} of its minor version")
        return kept


def decide(
    rules: Sequence[Rule],
    repository: str,
    tags: Mapping[str, Dated],
    *,
    now: float,
    pulled: Mapping[Digest, float] | None = None,
    subjects: Collection[str] = (),
    used: Collection[str] = (),
) -> list[Judged]:
    """What becomes of the tags that rules cover, in the order of their names.

    `pulled` is when a manifest was pulled last, at the latest. `subjects` are the images, by the hex of their digests,
    that the repository still holds: what belongs to them stays. `used` are the tags of what runs somewhere.
    """
    speaking = [rule for rule in rules if rule.repositories.fullmatch(repository)]
    covered = [{tag: dated for tag, dated in tags.items() if rule.covers(tag)} for rule in speaking]
    kept: dict[str, str] = {}
    for rule, some in zip(speaking, covered, strict=True):
        images = {tag: dated for tag, dated in some.items() if not _OF_AN_IMAGE.fullmatch(tag)}
        kept = rule.keeps(images, now, pulled or {}) | kept
    judged: list[Judged] = []
    for tag in sorted(set().union(*covered)):
        why = kept.get(tag) or _settled(tags[tag], now) or _belongs(tag, subjects) or _runs(tag, used)
        judged.append(Judged(repository, tag, tags[tag].digest, why is None, why or "no rule keeps it"))
    return judged


async def retain(
    storage: Storage,
    metadata: Metadata,
    settings: Retention,
    *,
    in_use: InUse,
    immutable: Callable[[str, str], bool],
    grace: timedelta,
    lease: Lease,
    dry_run: bool,
) -> AsyncGenerator[Judged | Seen]:
    """Take away the tags that rules let go, and tell of all that they cover. Raises LeaseLost and StorageError.

    `in_use` stays. `grace` is that of garbage collection: whoever pulls a manifest touches it, but once per half of
    that alone.
    """
    rules = [Rule.of(rule) for rule in settings.rules]
    now = await storage_time(storage.aside)
    async for repository in metadata.everything():
        if not any(rule.repositories.fullmatch(repository) for rule in rules):
            continue
        lease.check()
        tags = await metadata.dated_tags(repository)
        subjects = await _subjects(metadata, repository, tags)
        pulled = await _pulled(storage, metadata, repository, tags, grace / 2) if settings.remembers else {}
        used = await in_use.tags(metadata, repository, tags)
        for one in decide(rules, repository, tags, now=now, pulled=pulled, subjects=subjects, used=used):
            if not one.goes:
                yield one
            elif immutable(repository, one.tag):
                yield Judged(repository, one.tag, one.digest, False, "immutable")
            elif dry_run or await metadata.untag_old(repository, one.tag, tags[one.tag]):
                yield one
            else:
                yield Judged(repository, one.tag, one.digest, False, "pushed meanwhile")
        yield Seen(len(tags))


async def _pulled(
    storage: Storage, metadata: Metadata, repository: str, tags: Mapping[str, Dated], interval: timedelta
) -> dict[Digest, float]:
    """When each manifest may have been pulled last: an `interval` after it was touched for that."""
    contents = await metadata.linked_manifests(repository, sorted({dated.digest for dated in tags.values()}))
    found = await in_parallel(storage.in_place, list(contents.values()))
    touched = {digest: blob.touched for digest, blob in zip(contents, found, strict=True) if blob is not None}
    return {digest: at + interval.total_seconds() for digest, at in touched.items()}


async def _subjects(metadata: Metadata, repository: str, tags: Collection[str]) -> set[str]:
    """The images that tags belong to and that are there, by the hex of their digests."""
    named = sorted({Digest("sha256", found[1]) for tag in tags if (found := _OF_AN_IMAGE.fullmatch(tag))})
    return {digest.hex for digest in await metadata.linked_manifests(repository, named)}


def _age(tag: str, dated: Dated) -> tuple[float, object]:
    """The newest is the greatest; of those pushed at once, as a restore does it, the one that reads as the newest."""
    return dated.at, natural(tag)


def _newest_patches(tags: Collection[str], count: int) -> list[str]:
    minors: dict[tuple[int, int], list[tuple[Version, str]]] = {}
    for tag in tags:
        if (version := Version.of(tag)) is not None:
            minors.setdefault((version.major, version.minor), []).append((version, tag))
    return [tag for versions in minors.values() for _, tag in sorted(versions, reverse=True)[:count]]


def _settled(dated: Dated, now: float) -> str | None:
    return "pushed a moment ago" if now - dated.at < SETTLED else None


def _runs(tag: str, used: Collection[str]) -> str | None:
    return "runs somewhere" if tag in used else None


def _belongs(tag: str, subjects: Collection[str]) -> str | None:
    found = _OF_AN_IMAGE.fullmatch(tag)
    return "belongs to an image that is there" if found and found[1] in subjects else None
