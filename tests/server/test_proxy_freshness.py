"""How long the cache goes by what it knows, by a clock that tests set: tags, limits, and what nobody pulls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from registry_server.config.proxy import Proxy
from registry_server.metadata.layout import LayoutMetadata
from registry_server.metrics import Metrics
from registry_server.proxy import PullThrough
from registry_server.reference import Digest
from registry_server.registry.errors import ManifestUnknown, TooManyRequests, Unavailable
from registry_server.registry.holds import Holds
from registry_server.registry.lists import Pages
from registry_server.registry.manifest import understand
from registry_server.registry.manifests import Manifests
from registry_server.registry.quotas import Quotas
from registry_server.registry.rules import Rules
from registry_server.storage.filesystem import FilesystemStorage
from tests.server.content import Repository, digest_of
from tests.server.live import LiveRegistry
from tests.server.meddler import Meddler

HOUR = 3600


class Clock:
    """A time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def meddler(registry: LiveRegistry) -> Iterator[Meddler]:
    with Meddler(registry.address) as meddler:
        yield meddler


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., Any]


@pytest.fixture
def open_cache(tmp_path: Path, meddler: Meddler, clock: Clock) -> Open:
    """`open_cache(**settings)` is a cache over one folder, as a server that starts anew would have it."""
    for folder in ("spool", "metrics"):
        (tmp_path / folder).mkdir()

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[PullThrough]:
        storage = FilesystemStorage(str(tmp_path / "data"))
        metadata = LayoutMetadata(storage, understand)
        cache = PullThrough(
            Proxy(remoteurl=meddler.url, **settings),
            storage,
            metadata,
            local=Manifests(storage, metadata, Rules()),
            quotas=Quotas(metadata),
            holds=Holds(storage, metadata),
            pages=Pages(tags=100, repositories=100),
            spool=tmp_path / "spool",
            metrics=Metrics(tmp_path / "metrics"),
            clock=clock,
        )
        try:
            yield cache
        finally:
            await cache.close()

    return opened


async def pull(cache: PullThrough, repository: Repository, tag: str = "1") -> bytes:
    _, manifest = await cache.registry.manifests.by_tag(repository.name, tag)
    return manifest.content


def by_digest(cache: PullThrough, repository: Repository, manifest: bytes) -> Awaitable[Any]:
    return cache.registry.manifests.by_digest(repository.name, Digest.parse(digest_of(manifest)))


class TestTags:
    def test_a_fresh_one_is_not_asked_for(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            async with open_cache(freshfor="10m") as cache:
                first = repository.push_image("1")
                assert await pull(cache, repository) == first
                second = repository.push_image("1")
                clock.now += 599
                assert await pull(cache, repository) == first
                assert meddler.count(".") == 1
                clock.now += 1
                assert await pull(cache, repository) == second

        asyncio.run(scenario())

    def test_one_that_did_not_move_is_asked_for_by_head_and_fresh_again(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            async with open_cache(freshfor="10m") as cache:
                repository.push_image("1")
                for _ in range(3):
                    for _ in range(2):
                        await pull(cache, repository)
                    clock.now += 600
            assert (meddler.count("GET"), meddler.count("HEAD")) == (1, 2)

        asyncio.run(scenario())

    def test_freshness_survives_a_restart(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image("1")
            for _ in range(2):
                async with open_cache(freshfor="10m") as cache:
                    assert await pull(cache, repository) == manifest
            assert meddler.count(".") == 1

        asyncio.run(scenario())

    def test_a_stale_one_is_served_while_the_upstream_fails_but_not_for_ever(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image("1")
            async with open_cache(staleiferror="24h") as cache:
                await pull(cache, repository)
            meddler.harm(".", status=500)
            async with open_cache(staleiferror="24h") as cache:
                clock.now += 24 * HOUR
                assert await pull(cache, repository) == manifest
                clock.now += 1
                with pytest.raises(Unavailable):
                    await pull(cache, repository)
                assert (await by_digest(cache, repository, manifest)).content == manifest
                meddler.heal()
                assert await pull(cache, repository) == manifest

        asyncio.run(scenario())

    def test_one_that_another_registry_has_cached_counts_from_when_it_is_first_needed(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository, tmp_path: Path
    ) -> None:
        """A volume of distribution's cache has no records of ours."""

        async def scenario() -> None:
            storage = FilesystemStorage(str(tmp_path / "data"))
            of_another = Manifests(storage, LayoutMetadata(storage, understand), Rules(sparse="all"))
            manifest = repository.push_image("1")
            async with open_cache(staleiferror="24h") as cache:
                stored = await by_digest(cache, repository, manifest)
                await of_another.put(repository.name, stored, Digest.of(manifest), tags=("1",))
                meddler.harm(".", status=500)
                for _ in range(2):
                    assert await pull(cache, repository) == manifest
                    clock.now += 20 * HOUR
                with pytest.raises(Unavailable):
                    await pull(cache, repository)

        asyncio.run(scenario())


class TestLimits:
    @pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
    def test_nothing_is_asked_until_the_upstream_says(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository, dated: bool
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image("1")
            wait = formatdate(clock.now + 120, usegmt=True) if dated else "120"
            meddler.harm(".", status=429, headers={"Retry-After": wait}, times=1)
            async with open_cache() as cache:
                for passed in (0, 60, 59.5):
                    clock.now += passed
                    with pytest.raises(TooManyRequests) as raised:
                        await pull(cache, repository)
                    assert raised.value.retry_after is not None
                assert meddler.count(".") == 1
                clock.now += 0.5
                assert await pull(cache, repository) == manifest

        asyncio.run(scenario())

    @pytest.mark.parametrize(("header", "seconds"), [(None, 60), ("0", 1), ("soon", 60), ("99999999", 6 * HOUR)])
    def test_what_it_does_not_say_well_is_bounded(
        self, open_cache: Open, meddler: Meddler, repository: Repository, header: str | None, seconds: int
    ) -> None:
        async def scenario() -> None:
            meddler.harm(".", status=429, headers={} if header is None else {"Retry-After": header})
            async with open_cache() as cache:
                with pytest.raises(TooManyRequests) as raised:
                    await pull(cache, repository)
                assert raised.value.retry_after == seconds

        asyncio.run(scenario())


class TestExpiry:
    def test_what_nobody_pulled_is_let_go_of_and_fetched_anew(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository, tmp_path: Path
    ) -> None:
        """Its content stays for whoever is reading it, until garbage is collected."""

        async def scenario() -> None:
            old, used = repository.push_image("old"), repository.push_image("used")
            async with open_cache(ttl="168h") as cache:
                for tag in ("old", "used"):
                    await pull(cache, repository, tag)
                clock.now += 100 * HOUR
                await pull(cache, repository, "used")
                await cache.expire()
                clock.now += 69 * HOUR
                await cache.expire()
                meddler.harm(".", status=500)
                assert await pull(cache, repository, "used") == used
                with pytest.raises(Unavailable):
                    await pull(cache, repository, "old")
                assert await FilesystemStorage(str(tmp_path / "data")).blob(Digest.of(old)) is not None
                meddler.heal()
                assert await pull(cache, repository, "old") == old

        asyncio.run(scenario())

    def test_what_is_pulled_by_digest_counts_as_well(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image("1")
            async with open_cache(ttl="168h") as cache:
                await pull(cache, repository)
                clock.now += 160 * HOUR
                await by_digest(cache, repository, manifest)
                clock.now += 160 * HOUR
                await cache.expire()
                meddler.harm(".", status=500)
                assert await pull(cache, repository) == manifest

        asyncio.run(scenario())

    def test_nothing_expires_without_a_ttl(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image("1")
            async with open_cache(ttl="0s", staleiferror="100000h") as cache:
                await pull(cache, repository)
                clock.now += 50_000 * HOUR
                await cache.expire()
                meddler.harm(".", status=500)
                assert await pull(cache, repository) == manifest

        asyncio.run(scenario())

    def test_it_is_gone_at_the_upstream_by_then(
        self, open_cache: Open, meddler: Meddler, clock: Clock, repository: Repository
    ) -> None:
        async def scenario() -> None:
            manifest = repository.push_image()
            async with open_cache(ttl="1h") as cache:
                await by_digest(cache, repository, manifest)
                repository.client.delete(f"{repository.path}/manifests/{digest_of(manifest)}")
                await by_digest(cache, repository, manifest)
                clock.now += 2 * HOUR
                await cache.expire()
                with pytest.raises(ManifestUnknown):
                    await by_digest(cache, repository, manifest)

        asyncio.run(scenario())
