"""Backups: all that a registry holds, in another storage, from where it comes back onto any storage and metadata.

    back_up:  read what repositories hold ─► copy the contents that are missing ─► write the index, then the run
    restore:  read the run and its index  ─► copy the contents that are missing ─► link what the index says ─► prove it

A content is copied once for ever, under its digest. What a run holds is an index, a content as well; a run is a small
file that names it, written last: what is broken off leaves the runs before as they were, and what was copied is not
copied again. Digests lead from a run to every byte, so that a signature of the run holds for all of it.
"""

import gzip
import hmac
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from registry_server.config.backup import Keep
from registry_server.config.globs import compile_globs
from registry_server.jobs.copying import AT_ONCE, Copied, Planned, Problem, clean_up, copy_all, is_whole
from registry_server.jobs.occupancy import Lease
from registry_server.jobs.references import named, reachable
from registry_server.jobs.snapshot import Taken, contents_of, missing_from, sizes_of, snapshot
from registry_server.jobs.transfer import Done, transfer
from registry_server.metadata.contract import Holdings, LinkedManifest, Metadata
from registry_server.parallel import in_parallel
from registry_server.reference import Digest, InvalidDigest, is_repository, is_tag
from registry_server.registry.manifest import understand
from registry_server.storage.contract import Storage

VERSION: Final = 1
"""Of the form of runs and indexes."""
JOB: Final = "backup"

_RUNS: Final = "backups"


class BackupError(Exception):
    """A backup can't be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of a backup has kept."""

    id: str
    """When it began: `20261126T160405Z`."""
    ended: str
    """When it ended, in the same form."""
    index: str
    """The digest of its index."""
    repositories: int
    tags: int
    manifests: int
    contents: int
    bytes: int
    """Of all its contents."""
    copied: int
    """Contents that no run before had."""
    copied_bytes: int
    problems: Sequence[str] = ()
    """What could not be kept, as the registry had lost it itself."""

    @property
    def at(self) -> datetime:
        return datetime.strptime(self.id, _TIME).replace(tzinfo=UTC)


_TIME: Final = "%Y%m%dT%H%M%SZ"
_ID: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


class Archive:
    """The storage that backups are in."""

    def __init__(self, storage: Storage, key: bytes | None = None) -> None:
        self.storage = storage
        self._key = key

    async def runs(self) -> list[Run]:
        """All runs, the oldest first. Raises BackupError."""
        return await in_parallel(self.run, await self.ids())

    async def ids(self) -> list[str]:
        """The ids of all runs, the oldest first."""
        return sorted(filter(_ID.fullmatch, await self.storage.aside.written(_RUNS)))

    async def run(self, name: str) -> Run:
        """Raises BackupError for one that is not there, can't be read, or was not signed with our key."""
        content = await self.storage.aside.read(f"{_RUNS}/{name}") if _ID.fullmatch(name) else None
        if content is None:
            raise BackupError(f"there is no run {name}; `registry-server backup list` shows those there are")
        try:
            document = json.loads(content)
            version, signature = document.pop("version"), document.pop("signature")
            run = Run(**document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackupError(f"run {name} can't be read: its file is damaged") from error
        if version != VERSION:
            raise BackupError(f"run {name} has form {version}, of which this version knows nothing; take a newer one")
        if self._key is not None and not hmac.compare_digest(str(signature), self._sign(run) or ""):
            raise BackupError(f"run {name} was not signed with the key of backup.keyfile, or was changed since")
        return run

    async def new_id(self, now: datetime) -> str:
        """The id of a run that begins now, a second later for each that began within the same."""
        taken = await self.storage.aside.written(_RUNS)
        while (name := now.strftime(_TIME)) in taken:
            now += timedelta(seconds=1)
        return name

    async def write(self, run: Run) -> None:
        """Keep a run; from now on it counts."""
        document = {"version": VERSION, **asdict(run), "signature": self._sign(run)}
        await self.storage.aside.write(f"{_RUNS}/{run.id}", json.dumps(document, indent=2).encode())

    async def remove(self, run: Run) -> None:
        """Forget a run; its contents stay until `prune` finds that no other has them."""
        await self.storage.aside.remove(f"{_RUNS}/{run.id}")

    async def index(self, run: Run) -> Mapping[str, Holdings]:
        """What each repository held. Raises BackupError."""
        digest = Digest.parse(run.index)
        content = await self.storage.read_blob(digest)
        if content is None or Digest.of(content) != digest:
            raise BackupError(f"run {run.id} can't be used: its index is {'damaged' if content else 'lost'}")
        return _load(content)

    async def held(self) -> set[Digest]:
        """The contents that are here."""
        return {blob.digest async for blobs in self.storage.contents() for blob in blobs}

    def _sign(self, run: Run) -> str | None:
        if self._key is None:
            return None
        return hmac.digest(self._key, json.dumps(asdict(run), sort_keys=True).encode(), "sha256").hex()


async def back_up(
    storage: Storage, metadata: Metadata, archive: Archive, *, lease: Lease, now: datetime
) -> AsyncGenerator[Planned | Copied | Problem | Run]:
    """Copy all that a registry holds into an archive; the run comes last. Raises LeaseLost and StorageError."""
    await clean_up(archive.storage)
    holdings = await snapshot(metadata)
    contents = contents_of(holdings.values())
    held = await archive.held()
    sizes = await sizes_of(storage, contents)
    missing = [digest for digest in sizes if digest not in held]
    yield Planned(len(missing), sum(sizes[digest] for digest in missing), len(contents))
    problems: list[str] = []
    copied: list[Copied] = []
    async for event in copy_all(storage, archive.storage, missing, lease):
        copied += [event] if isinstance(event, Copied) else []
        problems += [event.text] if isinstance(event, Problem) else []
        yield event
    for digest in sorted(contents - sizes.keys() - held):
        problems.append(f"{digest} is not in storage")
        yield Problem(problems[-1])
    index = _dump(holdings)
    await archive.storage.write_blob(Digest.of(index), index)
    run = Run(
        id=await archive.new_id(now),
        ended=datetime.now(UTC).strftime(_TIME),
        index=str(Digest.of(index)),
        repositories=len(holdings),
        tags=sum(len(one.tags) for one in holdings.values()),
        manifests=sum(len(one.manifests) for one in holdings.values()),
        contents=len(contents),
        bytes=sum(sizes.values()),
        copied=len(copied),
        copied_bytes=sum(one.size for one in copied),
        problems=problems,
    )
    await clean_up(archive.storage)
    lease.check()
    await archive.write(run)
    yield run


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back."""

    repositories: int = 0
    tags: int = 0
    manifests: int = 0
    contents: int = 0
    differences: Sequence[str] = ()
    """What is not as the run has it, found by looking at all of it afterwards."""


async def restore(
    archive: Archive, wanted: Mapping[str, Holdings], storage: Storage, metadata: Metadata, *, lease: Lease
) -> AsyncGenerator[Planned | Copied | Problem | Done | Restored]:
    """Bring repositories back to what they held, and prove it. Raises LeaseLost and StorageError.

    What they hold beyond that stays; a tag that has moved since moves back. What is there already is read and compared
    with its digest, and copied again where it is damaged. It can be ended at any time and run again.
    """
    await clean_up(storage)
    contents = sorted(contents_of(wanted.values()))
    whole = await in_parallel(lambda digest: is_whole(storage, digest), contents)
    missing = [digest for digest, is_there in zip(contents, whole, strict=True) if not is_there]
    sizes = await sizes_of(archive.storage, set(missing))
    yield Planned(len(missing), sum(sizes.values()), len(contents))
    async for event in copy_all(archive.storage, storage, missing, lease):
        yield event
    await clean_up(storage)
    async for done in transfer(storage, Taken(wanted), metadata, prune=False):
        lease.check()
        yield done
    yield await _proof(wanted, storage, metadata)


def select(index: Mapping[str, Holdings], repositories: Sequence[str]) -> dict[str, Holdings]:
    """The repositories that match one of some patterns; all without any."""
    if not repositories:
        return dict(index)
    pattern = compile_globs(repositories)
    return {name: held for name, held in index.items() if pattern.fullmatch(name)}


async def only_tags(archive: Archive, held: Holdings, tags: Sequence[str]) -> Holdings:
    """Of what a repository held, what some of its tags lead to, referrers included. Raises BackupError."""
    references: dict[Digest, LinkedManifest] = {}
    for digest, content in held.manifests.items():
        text = await archive.storage.read_blob(content)
        if text is not None and Digest.of(text) == content:
            references[digest] = understand(digest, text)
    wanted = {tag: digest for tag, digest in held.tags.items() if tag in tags}
    kept = reachable(wanted.values(), references)
    if lost := set(wanted.values()) - kept:
        raise BackupError(f"manifest {min(lost)} can't be read in the backup; restore another run")
    needed = named(references[digest] for digest in kept)
    return Holdings(
        blobs={name: content for name, content in held.blobs.items() if name in needed or content in needed},
        manifests={digest: held.manifests[digest] for digest in kept},
        tags=wanted,
    )


async def verify(archive: Archive, runs: Iterable[Run]) -> AsyncGenerator[Planned | Copied | Problem]:
    """Read all contents of some runs, and compare them with their digests. Raises BackupError for a lost index."""
    needed: set[Digest] = set()
    for run in runs:
        needed |= contents_of((await archive.index(run)).values())
    contents = sorted(needed)
    sizes = await sizes_of(archive.storage, needed)
    yield Planned(len(contents), sum(sizes.values()), len(contents))
    for start in range(0, len(contents), AT_ONCE):
        chunk = contents[start : start + AT_ONCE]
        whole = await in_parallel(lambda digest: is_whole(archive.storage, digest), chunk)
        for digest, is_good in zip(chunk, whole, strict=True):
            if is_good:
                yield Copied(digest, sizes.get(digest, 0))
            else:
                yield Problem(f"{digest} is {'damaged' if digest in sizes else 'lost'} in the backup")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What has gone from an archive, or would."""

    runs: Sequence[Run] = ()
    contents: int = 0
    bytes: int = 0


async def prune(archive: Archive, keep: Keep, *, lease: Lease, dry_run: bool) -> Pruned:
    """Forget the runs that `keep` does not keep, and remove what only they had. Raises BackupError, LeaseLost."""
    runs = await archive.runs()
    kept = kept_by(keep, runs)
    needed: set[Digest] = set()
    for run in kept:
        needed |= {Digest.parse(run.index), *contents_of((await archive.index(run)).values())}
    gone = [run for run in runs if run not in kept]
    for run in () if dry_run else gone:
        await archive.remove(run)
    count = size = 0
    if not dry_run:
        async for blobs in archive.storage.trash.contents():  # of a run that was broken off
            for blob in blobs:
                await archive.storage.trash.purge(blob.digest)
    async for blobs in archive.storage.contents():
        lease.check()
        for blob in blobs:
            if blob.digest not in needed:
                count, size = count + 1, size + blob.size
                if not dry_run and await archive.storage.trash.discard(blob.digest, untouched_since=float("inf")):
                    await archive.storage.trash.purge(blob.digest)
    return Pruned(gone, count, size)


def kept_by(keep: Keep, runs: Sequence[Run]) -> list[Run]:
    """The runs that are kept, the oldest first; never none of some."""
    if keep == Keep():
        return list(runs)
    newest_first = sorted(runs, key=lambda run: run.id, reverse=True)
    kept = {run.id for run in newest_first[: max(keep.last, 1)]}
    for count, period in _PERIODS:
        last_of: dict[str, str] = {}
        for run in newest_first:
            last_of.setdefault(period(run.at), run.id)
        kept.update(list(last_of.values())[: getattr(keep, count)])
    return [run for run in runs if run.id in kept]


_PERIODS: Final[tuple[tuple[str, Callable[[datetime], str]], ...]] = (
    ("hourly", lambda at: at.strftime("%Y-%m-%dT%H")),
    ("daily", lambda at: at.strftime("%Y-%m-%d")),
    ("weekly", lambda at: at.strftime("%G-W%V")),
    ("monthly", lambda at: at.strftime("%Y-%m")),
)


async def _proof(wanted: Mapping[str, Holdings], storage: Storage, metadata: Metadata) -> Restored:
    """Compare all that was wanted with what is there."""
    return Restored(
        repositories=len(wanted),
        tags=sum(len(one.tags) for one in wanted.values()),
        manifests=sum(len(one.manifests) for one in wanted.values()),
        contents=len(contents_of(wanted.values())),
        differences=await missing_from(wanted, storage, metadata, called="the backup"),
    )


def _dump(index: Mapping[str, Holdings]) -> bytes:
    """A line a repository, the same bytes for the same holdings."""
    lines = [
        json.dumps(
            {
                "repository": name,
                "tags": _texts(one.tags),
                "manifests": _texts(one.manifests),
                "blobs": _texts(one.blobs),
            }
        )
        for name, one in sorted(index.items())
    ]
    return gzip.compress("\n".join([json.dumps({"version": VERSION}), *lines]).encode(), mtime=0)


def _load(content: bytes) -> dict[str, Holdings]:
    """Raises BackupError."""
    try:
        head, *lines = gzip.decompress(content).decode().split("\n")
        if json.loads(head) != {"version": VERSION}:
            raise BackupError(f"the index has another form: {head[:100]}; take a newer version")
        return dict(_repository(json.loads(line)) for line in lines)
    except (ValueError, KeyError, TypeError, OSError, EOFError, InvalidDigest) as error:
        raise BackupError(f"the index can't be read: {error}") from error


def _repository(document: dict[str, Any]) -> tuple[str, Holdings]:
    digests = {
        kind: {Digest.parse(name): Digest.parse(content) for name, content in document[kind].items()}
        for kind in ("blobs", "manifests")
    }
    tags = {tag: Digest.parse(digest) for tag, digest in document["tags"].items()}
    name = document["repository"]
    if not is_repository(name) or not all(map(is_tag, tags)):  # they become paths
        raise BackupError(f"the index names what can't be a repository or a tag: {name[:100]!r}")
    return name, Holdings(digests["blobs"], digests["manifests"], tags)


def _texts(mapping: Mapping[Any, Digest]) -> dict[str, str]:
    return {str(name): str(digest) for name, digest in sorted(mapping.items(), key=lambda one: str(one[0]))}
