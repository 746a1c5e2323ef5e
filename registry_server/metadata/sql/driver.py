"""The metadata contract on a database."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    Executable,
    Integer,
    String,
    Table,
    bindparam,
    delete,
    exists,
    func,
    literal,
    select,
    union,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from registry_server.metadata.contract import Dated, Descriptor, Holdings, LinkedBlob, LinkedManifest, Tagged, Usage
from registry_server.metadata.sql.database import Database, Overtaken, Query
from registry_server.metadata.sql.schema import (
    blob_aliases,
    blobs,
    manifest_blobs,
    manifest_children,
    manifests,
    missing_references,
    repositories,
    repository_blobs,
    tags,
)
from registry_server.reference import CANONICAL, Digest

T = TypeVar("T")

CHUNK: Final = 500
"""Values in one statement: every database takes as many, and a manifest may list tens of thousands."""
BATCH: Final = 1000
"""Repositories looked through at a time for one that is visible."""

_NAME = bindparam("repository", type_=String)
_DIGEST = bindparam("digest", type_=String)
_AFTER = bindparam("after", type_=String)
_AFTER_ID = bindparam("after", type_=BigInteger)
_LIMIT = bindparam("limit", type_=Integer)
_OF_REPOSITORY = repositories.c.name == _NAME
_THE_REPOSITORY = select(repositories.c.id).where(_OF_REPOSITORY).scalar_subquery()

_BLOB = (
    select(blobs.c.digest)
    .join(repository_blobs, repository_blobs.c.blob_id == blobs.c.id)
    .join(repositories, repositories.c.id == repository_blobs.c.repository_id)
    .where(_OF_REPOSITORY, blobs.c.digest == _DIGEST)
)
_BLOB_BY_ALIAS = (
    select(blobs.c.digest)
    .join(blob_aliases, blob_aliases.c.blob_id == blobs.c.id)
    .join(repositories, repositories.c.id == blob_aliases.c.repository_id)
    .where(_OF_REPOSITORY, blob_aliases.c.digest == _DIGEST)
)
_HOLDERS = (
    select(repositories.c.name, repository_blobs.c.repository_id)
    .join(repository_blobs, repository_blobs.c.repository_id == repositories.c.id)
    .where(
        repository_blobs.c.blob_id == select(blobs.c.id).where(blobs.c.digest == _DIGEST).scalar_subquery(),
        repository_blobs.c.repository_id > _AFTER_ID,
    )
    .order_by(repository_blobs.c.repository_id)
    .limit(_LIMIT)
)
_HOLDERS_BY_ALIAS = (
    select(repositories.c.name, blob_aliases.c.repository_id)
    .join(blob_aliases, blob_aliases.c.repository_id == repositories.c.id)
    .where(blob_aliases.c.digest == _DIGEST, blob_aliases.c.repository_id > _AFTER_ID)
    .order_by(blob_aliases.c.repository_id)
    .limit(_LIMIT)
)
_MANIFEST = (
    select(blobs.c.digest)
    .join(manifests, manifests.c.blob_id == blobs.c.id)
    .join(repositories, repositories.c.id == manifests.c.repository_id)
    .where(_OF_REPOSITORY, manifests.c.digest == _DIGEST)
)
_TAGGED = (
    select(manifests.c.digest, blobs.c.digest)
    .join(blobs, blobs.c.id == manifests.c.blob_id)
    .join(tags, tags.c.manifest_id == manifests.c.id)
    .join(repositories, repositories.c.id == tags.c.repository_id)
    .where(_OF_REPOSITORY, tags.c.name == bindparam("tag", type_=String))
)
_DATED = (
    select(tags.c.name, manifests.c.digest, tags.c.updated_at)
    .join(manifests, manifests.c.id == tags.c.manifest_id)
    .join(repositories, repositories.c.id == tags.c.repository_id)
    .where(_OF_REPOSITORY)
)
# What follows is read in the order of an index, and no further than its limit. A join or an EXISTS, which a planner may
# turn into one, would let it collect and sort everything first.
_TAGS = (
    select(tags.c.name)
    .where(tags.c.repository_id == _THE_REPOSITORY, tags.c.name > _AFTER)
    .order_by(tags.c.name)
    .limit(_LIMIT)
)
_A_MANIFEST = (
    select(manifests.c.id).where(manifests.c.repository_id == repositories.c.id).limit(1).correlate(repositories)
).scalar_subquery()
_A_BLOB = (
    select(repository_blobs.c.blob_id)
    .where(repository_blobs.c.repository_id == repositories.c.id)
    .limit(1)
    .correlate(repositories)
).scalar_subquery()
_EXISTS = select(repositories.c.id).where(_OF_REPOSITORY, _A_MANIFEST.is_not(None))
_REFERRERS = (
    select(manifests.c.digest, manifests.c.media_type, blobs.c.size, manifests.c.artifact_type, manifests.c.annotations)
    .join(blobs, blobs.c.id == manifests.c.blob_id)
    .join(repositories, repositories.c.id == manifests.c.repository_id)
    .where(_OF_REPOSITORY, manifests.c.subject == bindparam("subject", type_=String))
    .order_by(manifests.c.digest)
)
_REPOSITORIES = (
    select(repositories.c.name)
    .where(repositories.c.name > _AFTER, _A_MANIFEST.is_not(None))
    .order_by(repositories.c.name)
    .limit(_LIMIT)
)
_EVERYTHING = (
    select(repositories.c.name)
    .where(repositories.c.name > _AFTER, _A_MANIFEST.is_not(None) | _A_BLOB.is_not(None))
    .order_by(repositories.c.name)
    .limit(_LIMIT)
)
_HELD_CONTENT = union(
    select(repository_blobs.c.blob_id).where(repository_blobs.c.repository_id == _THE_REPOSITORY),
    select(manifests.c.blob_id).where(manifests.c.repository_id == _THE_REPOSITORY),
)
_BYTES = select(func.coalesce(func.sum(blobs.c.size), 0)).where(blobs.c.id.in_(_HELD_CONTENT)).scalar_subquery()
_COUNT = select(func.count()).select_from(tags).where(tags.c.repository_id == _THE_REPOSITORY).scalar_subquery()
_USAGE = select(_BYTES, _COUNT)
_DIGESTS: BindParameter[str] = bindparam("digests", expanding=True)
_REPOSITORY = bindparam("repository_id", type_=BigInteger)
_REPOSITORY_ID = select(repositories.c.id).where(_OF_REPOSITORY)
_CONTENT_IDS = select(blobs.c.digest, blobs.c.id).where(blobs.c.digest.in_(_DIGESTS))
_MANIFEST_IDS = select(manifests.c.digest, manifests.c.id).where(
    manifests.c.repository_id == _REPOSITORY, manifests.c.digest.in_(_DIGESTS)
)
_HELD_BLOBS = (
    select(blobs.c.digest, blobs.c.id, blobs.c.digest.label("content"))
    .join(repository_blobs, repository_blobs.c.blob_id == blobs.c.id)
    .where(repository_blobs.c.repository_id == _REPOSITORY, blobs.c.digest.in_(_DIGESTS))
)
_HELD_BLOBS_BY_ALIAS = (
    select(blob_aliases.c.digest, blobs.c.id, blobs.c.digest.label("content"))
    .join(blobs, blobs.c.id == blob_aliases.c.blob_id)
    .where(blob_aliases.c.repository_id == _REPOSITORY, blob_aliases.c.digest.in_(_DIGESTS))
)
_FORGET = delete(blobs).where(
    blobs.c.digest.in_(_DIGESTS),
    ~exists().where(repository_blobs.c.blob_id == blobs.c.id),
    ~exists().where(manifest_blobs.c.blob_id == blobs.c.id),
    ~exists().where(manifests.c.blob_id == blobs.c.id),
)
_HELD_MANIFESTS = (
    select(manifests.c.digest, blobs.c.digest.label("content"))
    .join(blobs, blobs.c.id == manifests.c.blob_id)
    .join(repositories, repositories.c.id == manifests.c.repository_id)
    .where(_OF_REPOSITORY, manifests.c.digest.in_(_DIGESTS))
)


class SqlMetadata:
    """Every question is one query over an index, every change one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        query = database.query
        self._blob, self._blob_by_alias = query(_BLOB), query(_BLOB_BY_ALIAS)
        self._holders, self._holders_by_alias = query(_HOLDERS), query(_HOLDERS_BY_ALIAS)
        self._manifest, self._tagged, self._tags = query(_MANIFEST), query(_TAGGED), query(_TAGS)
        self._exists, self._referrers = query(_EXISTS), query(_REFERRERS)
        self._repositories, self._everything = query(_REPOSITORIES), query(_EVERYTHING)
        self._usage = query(_USAGE)
        self._one = query(select(literal(1)))

    async def link_blobs(self, repository: str, blobs: Sequence[LinkedBlob]) -> None:
        await self._database.write(lambda connection: _link_blobs(connection, repository, blobs))

    async def linked_blob(self, repository: str, digest: Digest) -> Digest | None:
        query = self._blob if digest.algorithm == CANONICAL else self._blob_by_alias
        return _only_digest(await self._database.fetch(query, {"repository": repository, "digest": str(digest)}))

    async def linked_blobs(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        def work(connection: Connection) -> dict[Digest, Digest]:
            found = connection.execute(_REPOSITORY_ID, {"repository": repository}).scalar()
            held = {} if found is None else _blob_ids(connection, found, digests)
            return {digest: content for digest, (_, content) in held.items()}

        return await self._database.read(work)

    async def unlink_blob(self, repository: str, digest: Digest) -> bool:
        def work(connection: Connection) -> bool:
            of_repository = select(repositories.c.id).where(repositories.c.name == repository).scalar_subquery()
            if digest.algorithm == CANONICAL:
                content = select(blobs.c.id).where(blobs.c.digest == str(digest)).scalar_subquery()
                statement = delete(repository_blobs).where(
                    repository_blobs.c.repository_id == of_repository, repository_blobs.c.blob_id == content
                )
            else:
                statement = delete(blob_aliases).where(
                    blob_aliases.c.repository_id == of_repository, blob_aliases.c.digest == str(digest)
                )
            return connection.execute(statement).rowcount > 0

        return await self._database.write(work)

    async def holder(self, digest: Digest, *, visible: Callable[[str], bool]) -> str | None:
        query = self._holders if digest.algorithm == CANONICAL else self._holders_by_alias
        async with aclosing(self._batches({"digest": str(digest)}, query, after=0, batch=BATCH)) as batches:
            async for names in batches:
                for name in filter(visible, names):
                    return name
        return None

    async def link_manifests(
        self, repository: str, manifests: Sequence[LinkedManifest], *, tags: Mapping[str, Digest]
    ) -> None:
        await self._database.write(lambda connection: _link_manifests(connection, repository, manifests, tags))

    async def claim_tag(self, repository: str, tag: str, digest: Digest) -> Tagged | None:
        await self._database.write(lambda connection: _claim_tag(connection, repository, tag, digest))
        return await self.tagged(repository, tag)

    async def linked_manifest(self, repository: str, digest: Digest) -> Digest | None:
        parameters = {"repository": repository, "digest": str(digest)}
        return _only_digest(await self._database.fetch(self._manifest, parameters))

    async def linked_manifests(self, repository: str, digests: Sequence[Digest]) -> Mapping[Digest, Digest]:
        def work(connection: Connection) -> dict[Digest, Digest]:
            found: dict[Digest, Digest] = {}
            for chunk in _chunks(dict.fromkeys(map(str, digests))):
                rows = connection.execute(_HELD_MANIFESTS, {"repository": repository, "digests": chunk})
                found.update((Digest.parse(digest), Digest.parse(content)) for digest, content in rows)
            return found

        return await self._database.read(work)

    async def unlink_manifest(self, repository: str, digest: Digest) -> bool:
        return await self._database.write(lambda connection: _unlink_manifest(connection, repository, digest))

    async def tagged(self, repository: str, tag: str) -> Tagged | None:
        rows = await self._database.fetch(self._tagged, {"repository": repository, "tag": tag})
        return Tagged(Digest.parse(rows[0][0]), Digest.parse(rows[0][1])) if rows else None

    async def untag(self, repository: str, tag: str) -> bool:
        def work(connection: Connection) -> bool:
            of_repository = select(repositories.c.id).where(repositories.c.name == repository).scalar_subquery()
            statement = delete(tags).where(tags.c.repository_id == of_repository, tags.c.name == tag)
            return connection.execute(statement).rowcount > 0

        return await self._database.write(work)

    async def dated_tags(self, repository: str) -> Mapping[str, Dated]:
        rows = await self._database.read(
            lambda connection: connection.execute(_DATED, {"repository": repository}).all()
        )
        return {tag: Dated(Digest.parse(digest), at / 1000) for tag, digest, at in rows}

    async def untag_old(self, repository: str, tag: str, found: Dated) -> bool:
        def work(connection: Connection) -> bool:
            locked = _locked(connection, repository, found.digest)
            if locked is None:
                return False
            repository_id, manifest_id = locked
            statement = delete(tags).where(
                tags.c.repository_id == repository_id,
                tags.c.name == tag,
                tags.c.manifest_id == manifest_id,
                tags.c.updated_at == round(found.at * 1000),
            )
            return connection.execute(statement).rowcount > 0

        return await self._database.write(work)

    async def tags(self, repository: str, *, after: str, limit: int) -> Sequence[str] | None:
        parameters = {"repository": repository, "after": _marker(after), "limit": limit}
        names = [name for (name,) in await self._database.fetch(self._tags, parameters)]
        if not names and not await self._database.fetch(self._exists, {"repository": repository}):
            return None
        return names

    async def referrers(self, repository: str, subject: Digest) -> Sequence[Descriptor]:
        parameters = {"repository": repository, "subject": str(subject)}
        return [_descriptor(*row) for row in await self._database.fetch(self._referrers, parameters)]

    def repositories(self, *, after: str, batch: int) -> AsyncGenerator[Sequence[str]]:
        return self._batches({}, self._repositories, after=_marker(after), batch=batch)

    async def everything(self) -> AsyncGenerator[str]:
        async for names in self._batches({}, self._everything, after="", batch=BATCH):
            for name in names:
                yield name

    async def hidden(self) -> AsyncGenerator[str]:
        """Names come by requests, or from link files that can be asked for."""
        return
        yield ""  # which makes it a generator

    async def holdings(self, repository: str) -> Holdings:
        return await self._database.read(lambda connection: _holdings(connection, repository))

    async def references(self, repository: str) -> Mapping[Digest, LinkedManifest | None]:
        return await self._database.read(lambda connection: _references(connection, repository))

    async def release_manifest(self, repository: str, digest: Digest) -> bool:
        return await self._database.write(lambda connection: _release_manifest(connection, repository, digest))

    async def forget(self, contents: Sequence[Digest]) -> None:
        def work(connection: Connection) -> None:
            for chunk in _chunks(map(str, contents)):
                connection.execute(_FORGET, {"digests": chunk})

        await self._database.write(work)

    async def usage(self, repository: str) -> Usage:
        ((size, count),) = await self._database.fetch(self._usage, {"repository": repository})
        return Usage(int(size), count)

    async def check(self) -> None:
        await self._database.fetch(self._one, {})

    async def close(self) -> None:
        await self._database.close()

    async def _batches(
        self, parameters: Mapping[str, Any], query: Query, *, after: str | int, batch: int
    ) -> AsyncGenerator[Sequence[str]]:
        """The names that a query finds, in the order of its last column."""
        while True:
            rows = await self._database.fetch(query, {**parameters, "after": after, "limit": batch})
            if rows:
                yield [row[0] for row in rows]
            if len(rows) < batch:
                return
            after = rows[-1][-1]


def _link_blobs(connection: Connection, repository: str, linked: Sequence[LinkedBlob]) -> None:
    repository_id = _repository_id(connection, repository)
    ids = _content_ids(connection, {blob.content: blob.size for blob in linked})
    now = _now()
    rows = [{"repository_id": repository_id, "blob_id": ids[content], "created_at": now} for content in sorted(ids)]
    _insert_missing(connection, repository_blobs, rows)
    aliases = [
        {"repository_id": repository_id, "digest": str(alias), "blob_id": ids[blob.content]}
        for blob in linked
        for alias in blob.aliases
    ]
    _insert_missing(connection, blob_aliases, aliases)


def _link_manifests(
    connection: Connection, repository: str, linked: Sequence[LinkedManifest], tagged: Mapping[str, Digest]
) -> None:
    repository_id = _repository_id(connection, repository)
    contents = _content_ids(connection, {manifest.content: manifest.descriptor.size for manifest in linked})
    now = _now()
    _insert_missing(
        connection,
        manifests,
        [_manifest_row(one, repository_id, contents[one.content], now) for one in linked],
    )
    ids = _there(connection, repository_id, {*(one.digest for one in linked), *tagged.values()})
    _link_references(connection, repository_id, linked, ids)
    rows = [
        {"repository_id": repository_id, "name": tag, "manifest_id": ids[digest], "created_at": now, "updated_at": now}
        for tag, digest in sorted(tagged.items())
    ]
    _insert_or_update(connection, tags, rows, update=("manifest_id", "updated_at"))


def _claim_tag(connection: Connection, repository: str, tag: str, digest: Digest) -> None:
    repository_id, now = _repository_id(connection, repository), _now()
    manifest_id = _there(connection, repository_id, {digest})[digest]
    row = {
        "repository_id": repository_id,
        "name": tag,
        "manifest_id": manifest_id,
        "created_at": now,
        "updated_at": now,
    }
    _insert_missing(connection, tags, [row])


def _link_references(
    connection: Connection, repository_id: int, linked: Sequence[LinkedManifest], ids: Mapping[Digest, int]
) -> None:
    """What manifests refer to. Pushed again, one gains what has come since."""
    held = _blob_ids(connection, repository_id, [blob for one in linked for blob in one.blobs])
    children = _manifest_ids(connection, repository_id, {child for one in linked for child in one.manifests})
    to_blobs: dict[tuple[int, int], dict[str, Any]] = {}
    to_children: dict[tuple[int, int], dict[str, Any]] = {}
    missing: dict[tuple[int, str], dict[str, Any]] = {}
    for one in linked:
        parent = ids[one.digest]
        for blob in one.blobs:
            if blob in held:
                to_blobs[parent, held[blob][0]] = {"manifest_id": parent, "blob_id": held[blob][0]}
            else:
                missing[parent, str(blob)] = {"manifest_id": parent, "digest": str(blob)}
        for digest in one.manifests:
            child = children.get(digest)
            if child is not None:
                row = {"repository_id": repository_id, "parent_id": parent, "child_id": child}
                to_children[parent, child] = row
            else:
                missing[parent, str(digest)] = {"manifest_id": parent, "digest": str(digest)}
    _insert_missing(connection, manifest_blobs, to_blobs.values())
    _insert_missing(connection, manifest_children, to_children.values())
    _insert_missing(connection, missing_references, missing.values())


def _locked(connection: Connection, repository: str, digest: Digest) -> tuple[int, int] | None:
    """The numbers of a repository and of its manifest; whoever points to that meanwhile waits."""
    found = connection.execute(
        select(manifests.c.repository_id, manifests.c.id)
        .join(repositories, repositories.c.id == manifests.c.repository_id)
        .where(repositories.c.name == repository, manifests.c.digest == str(digest))
        .with_for_update(of=manifests)
    ).first()
    return None if found is None else (found[0], found[1])


def _unlink_manifest(connection: Connection, repository: str, digest: Digest) -> bool:
    found = _locked(connection, repository, digest)
    if found is None:
        return False
    repository_id, manifest_id = found
    of_repository = tags.c.repository_id == repository_id
    connection.execute(delete(tags).where(of_repository, tags.c.manifest_id == manifest_id))
    is_child = (manifest_children.c.repository_id == repository_id) & (manifest_children.c.child_id == manifest_id)
    parents = connection.execute(select(manifest_children.c.parent_id).where(is_child)).scalars()
    _insert_missing(
        connection, missing_references, [{"manifest_id": parent, "digest": str(digest)} for parent in parents]
    )
    connection.execute(delete(manifest_children).where(is_child))
    connection.execute(delete(manifests).where(manifests.c.id == manifest_id))
    return True


def _release_manifest(connection: Connection, repository: str, digest: Digest) -> bool:
    found = _locked(connection, repository, digest)
    if found is None:
        return False
    repository_id, manifest_id = found
    tagged = select(tags.c.name).where(tags.c.repository_id == repository_id, tags.c.manifest_id == manifest_id)
    listed = select(manifest_children.c.parent_id).where(
        manifest_children.c.repository_id == repository_id, manifest_children.c.child_id == manifest_id
    )
    if connection.execute(tagged.limit(1)).first() or connection.execute(listed.limit(1)).first():
        return False
    connection.execute(delete(manifests).where(manifests.c.id == manifest_id))
    return True


def _references(connection: Connection, repository: str) -> dict[Digest, LinkedManifest]:
    repository_id = connection.execute(_REPOSITORY_ID, {"repository": repository}).scalar()
    if repository_id is None:
        return {}
    of_repository = manifests.c.repository_id == repository_id
    named: dict[int, tuple[Descriptor, Digest, Digest | None]] = {
        row[0]: (_descriptor(*row[3:]), Digest.parse(row[1]), None if row[2] is None else Digest.parse(row[2]))
        for row in connection.execute(
            select(
                manifests.c.id,
                blobs.c.digest,
                manifests.c.subject,
                manifests.c.digest,
                manifests.c.media_type,
                blobs.c.size,
                manifests.c.artifact_type,
                manifests.c.annotations,
            )
            .join(blobs, blobs.c.id == manifests.c.blob_id)
            .where(of_repository)
        )
    }
    child = manifests.alias("child")
    missing = _by_manifest(
        connection,
        select(missing_references.c.manifest_id, missing_references.c.digest).join(manifests).where(of_repository),
    )
    layers = _by_manifest(
        connection,
        select(manifest_blobs.c.manifest_id, blobs.c.digest)
        .join(blobs, blobs.c.id == manifest_blobs.c.blob_id)
        .join(manifests, manifests.c.id == manifest_blobs.c.manifest_id)
        .where(of_repository),
    )
    children = _by_manifest(
        connection,
        select(manifest_children.c.parent_id, child.c.digest)
        .join(child, child.c.id == manifest_children.c.child_id)
        .where(manifest_children.c.repository_id == repository_id),
    )
    return {
        descriptor.digest: LinkedManifest(
            descriptor,
            content,
            blobs=(*layers.get(number, ()), *missing.get(number, ())),
            manifests=(*children.get(number, ()), *missing.get(number, ())),
            subject=subject,
        )
        for number, (descriptor, content, subject) in named.items()
    }


def _by_manifest(connection: Connection, query: Executable) -> dict[int, list[Digest]]:
    found: dict[int, list[Digest]] = {}
    for number, digest in connection.execute(query):
        found.setdefault(number, []).append(Digest.parse(digest))
    return found


def _holdings(connection: Connection, repository: str) -> Holdings:
    repository_id = connection.execute(_REPOSITORY_ID, {"repository": repository}).scalar()
    if repository_id is None:
        return Holdings()
    by_name = select(blobs.c.digest.label("name"), blobs.c.digest.label("content")).join(repository_blobs)
    by_alias = select(blob_aliases.c.digest, blobs.c.digest).join(blobs, blobs.c.id == blob_aliases.c.blob_id)
    named = union(
        by_name.where(repository_blobs.c.repository_id == repository_id),
        by_alias.where(blob_aliases.c.repository_id == repository_id),
    )
    held = select(manifests.c.digest, blobs.c.digest).join(blobs, blobs.c.id == manifests.c.blob_id)
    tagged = select(tags.c.name, manifests.c.digest).join(manifests, manifests.c.id == tags.c.manifest_id)
    # In this order, as what is pushed meanwhile comes the other way round.
    tags_read = {
        tag: Digest.parse(digest)
        for tag, digest in connection.execute(tagged.where(tags.c.repository_id == repository_id))
    }
    manifests_read = {
        Digest.parse(digest): Digest.parse(content)
        for digest, content in connection.execute(held.where(manifests.c.repository_id == repository_id))
    }
    blobs_read = {Digest.parse(name): Digest.parse(content) for name, content in connection.execute(named)}
    return Holdings(blobs_read, manifests_read, tags_read)


def _repository_id(connection: Connection, name: str) -> int:
    """The repository's number; it is made if it isn't there."""
    found = connection.execute(_REPOSITORY_ID, {"repository": name}).scalar()
    if found is None:
        _insert_missing(connection, repositories, [{"name": name, "created_at": _now()}])
        found = connection.execute(_REPOSITORY_ID, {"repository": name}).scalar_one()
    return int(found)


def _content_ids(connection: Connection, sizes: Mapping[Digest, int]) -> dict[Digest, int]:
    """The numbers of contents that are in storage, given with their bytes; those that are new get one."""
    now = _now()
    rows = [{"digest": str(digest), "size": size, "created_at": now} for digest, size in sorted(sizes.items())]
    _insert_missing(connection, blobs, rows)
    return _ids(connection, _CONTENT_IDS, sizes)


def _blob_ids(
    connection: Connection, repository_id: int, digests: Iterable[Digest]
) -> dict[Digest, tuple[int, Digest]]:
    """The number and the canonical digest of those of many blobs that a repository holds."""
    held: dict[Digest, tuple[int, Digest]] = {}
    named = dict.fromkeys(digests)
    for query, canonical in ((_HELD_BLOBS, True), (_HELD_BLOBS_BY_ALIAS, False)):
        for chunk in _chunks(str(digest) for digest in named if (digest.algorithm == CANONICAL) is canonical):
            rows = connection.execute(query, {"repository_id": repository_id, "digests": chunk})
            held.update((Digest.parse(name), (number, Digest.parse(content))) for name, number, content in rows)
    return held


def _manifest_ids(connection: Connection, repository_id: int, digests: Iterable[Digest]) -> dict[Digest, int]:
    return _ids(connection, _MANIFEST_IDS, digests, repository_id=repository_id)


def _there(connection: Connection, repository_id: int, digests: Collection[Digest]) -> dict[Digest, int]:
    """The numbers of manifests that were there a moment ago. Raises Overtaken where one was deleted since."""
    found = _manifest_ids(connection, repository_id, digests)
    if len(found) < len(digests):
        raise Overtaken
    return found


def _ids(connection: Connection, query: Executable, digests: Iterable[Digest], **parameters: int) -> dict[Digest, int]:
    """The numbers of rows by their digest, as far as there are such rows."""
    found: dict[Digest, int] = {}
    for chunk in _chunks(map(str, digests)):
        rows = connection.execute(query, {**parameters, "digests": chunk})
        found.update((Digest.parse(digest), number) for digest, number in rows)
    return found


def _insert_missing(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, but for those that are there."""
    _insert_or_update(connection, table, rows, update=())


def _insert_or_update(
    connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]], *, update: tuple[str, ...]
) -> None:
    """Insert rows; of those that are there update some columns."""
    if given := list(rows):
        connection.execute(_upsert(connection.dialect.name, table, update), given)


@cache
def _upsert(dialect: str, table: Table, update: tuple[str, ...]) -> Any:
    if dialect in ("mysql", "mariadb"):
        statement: Any = mysql.insert(table)
        if update:
            return statement.on_duplicate_key_update({name: statement.inserted[name] for name in update})
        # An update of nothing: IGNORE would pass over references that lead nowhere as well.
        unchanged = next(iter(table.primary_key.columns))
        return statement.on_duplicate_key_update({unchanged.name: unchanged})
    conflicting = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    if not update:
        return conflicting.on_conflict_do_nothing()
    return conflicting.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={name: conflicting.excluded[name] for name in update}
    )


def _manifest_row(linked: LinkedManifest, repository_id: int, blob_id: int, now: int) -> dict[str, Any]:
    descriptor = linked.descriptor
    refers = linked.subject is not None
    return {
        "repository_id": repository_id,
        "digest": str(linked.digest),
        "blob_id": blob_id,
        "media_type": _escape(descriptor.media_type),
        "artifact_type": None if descriptor.artifact_type is None else _escape(descriptor.artifact_type),
        "subject": str(linked.subject) if refers else None,
        "annotations": json.dumps(dict(descriptor.annotations)) if refers and descriptor.annotations else None,
        "pushed_at": now,
    }


def _descriptor(
    digest: str, media_type: str, size: int, artifact_type: str | None, annotations: str | None
) -> Descriptor:
    return Descriptor(
        Digest.parse(digest),
        _unescape(media_type),
        size,
        None if artifact_type is None else _unescape(artifact_type),
        {} if annotations is None else json.loads(annotations),
    )


def _escape(text: str) -> str:
    """A text of a client's as ASCII: databases refuse zero bytes and halves of characters, JSON does not."""
    return json.dumps(text)[1:-1]


def _unescape(text: str) -> str:
    return str(json.loads(f'"{text}"'))


def _marker(after: str) -> str:
    """What stands for `after` among names of printable ASCII, which no byte that a client may choose then disturbs."""
    after = after[:256]
    end = next((i for i, character in enumerate(after) if not "!" <= character <= "~"), None)
    if end is None:
        return after
    return after[:end] + ("\x7f" if after[end] > "~" else "")


def _only_digest(rows: Sequence[tuple[Any, ...]]) -> Digest | None:
    return Digest.parse(rows[0][0]) if rows else None


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    left = iter(values)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _now() -> int:
    return int(time.time() * 1000)
