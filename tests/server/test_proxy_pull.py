"""Pulls through the cache: what is asked of the upstream, what is kept, and what is served when the upstream fails."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, OCI_MANIFEST, Repository, digest_of, index, unique
from tests.server.live import LiveRegistry, serving, until
from tests.server.meddler import Meddler

MEGABYTE = 1 << 20
TIMEOUTS = {"connect": "30s", "idle": "60s", "total": "60s"}


@pytest.fixture(scope="module")
def meddler(registry: LiveRegistry) -> Iterator[Meddler]:
    with Meddler(registry.address) as meddler:
        yield meddler


@pytest.fixture
def upstream(meddler: Meddler, repository: Repository) -> Iterator[Repository]:
    """A repository of the registry behind the man in the middle, who does no harm and has counted nothing yet."""
    meddler.forget()
    yield repository
    meddler.heal()


@pytest.fixture(scope="module")
def cache(meddler: Meddler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """A cache with two workers."""
    with serving(tmp_path_factory.mktemp("cache"), _settings(meddler), workers=2) as cache:
        yield cache


@pytest.fixture
def cached(cache: LiveRegistry, upstream: Repository) -> Repository:
    """The same repository as clients of the cache see it."""
    return Repository(cache.client(), upstream.name)


@pytest.fixture
def own_cache(serve: Serve, meddler: Meddler, upstream: Repository) -> LiveRegistry:
    """A cache that no other test uses, with one worker."""
    return serve(_settings(meddler))


class TestManifests:
    def test_are_fetched_once(self, meddler: Meddler, upstream: Repository, cached: Repository) -> None:
        manifest = upstream.push_image("1")
        for _ in range(3):
            response = cached.get_manifest("1")
            assert response.content == manifest
            assert response.headers["content-type"] == OCI_MANIFEST
            assert response.headers["docker-content-digest"] == digest_of(manifest)
        assert meddler.count("GET .*/manifests/") == 1
        assert meddler.count("HEAD .*/manifests/") == 2, "a tag is asked for each time, by HEAD"

    def test_by_digest_are_never_asked_for_again(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        manifest = upstream.push_image()
        for _ in range(3):
            assert cached.get_manifest(digest_of(manifest)).content == manifest
        assert meddler.count("/manifests/") == 1

    def test_a_tag_that_moves_is_followed_at_once(self, upstream: Repository, cached: Repository) -> None:
        for _ in range(3):
            manifest = upstream.push_image("latest")
            assert cached.get_manifest("latest").content == manifest

    def test_a_tag_that_moves_back_is_followed_without_another_fetch(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        first, second = upstream.push_image(), upstream.push_image()
        for manifest in (first, second, first):
            upstream.push_manifest(manifest, "latest")
            assert cached.get_manifest("latest").content == manifest
        assert meddler.count("GET .*/manifests/") == 2

    def test_a_tag_taken_away_upstream_is_gone_here(self, upstream: Repository, cached: Repository) -> None:
        manifest = upstream.push_image("1")
        assert cached.get_manifest("1").status_code == 200
        assert upstream.client.delete(f"{upstream.path}/manifests/1").status_code == 202
        response = cached.get_manifest("1")
        assert response.status_code == 404
        assert response.json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        assert cached.get_manifest(digest_of(manifest)).status_code == 200

    @pytest.mark.parametrize("reference", ["nothing", digest_of(b"nothing")])
    def test_what_the_upstream_does_not_have_is_unknown(self, cached: Repository, reference: str) -> None:
        response = cached.get_manifest(reference)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")

    def test_of_one_platform_come_without_the_others(self, upstream: Repository, cached: Repository) -> None:
        images = [upstream.push_image(), upstream.push_image()]
        upstream.push_manifest(index(images), "multi", OCI_INDEX)
        assert cached.get_manifest("multi").content == index(images)
        assert cached.get_manifest(digest_of(images[0])).content == images[0]

    def test_asked_for_at_the_same_time_are_fetched_once(
        self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry
    ) -> None:
        manifest = upstream.push_image("1")
        gate = threading.Event()
        meddler.harm("GET .*/manifests/", gate=gate)
        with ThreadPoolExecutor(10) as pool:
            pulls = [pool.submit(own_cache.fresh.get, f"{own_cache.url}{upstream.path}/manifests/1") for _ in range(10)]
            until(lambda: own_cache.metric("regatta_http_requests_in_flight") == 10, "all of them wait")
            gate.set()
            assert {pull.result().content for pull in pulls} == {manifest}
        assert meddler.count("/manifests/") == 1

    def test_that_are_not_what_was_asked_for_are_not_kept(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        manifest = upstream.push_image("1")
        meddler.harm("GET .*/manifests/", corrupt_at=40)
        for reference in ("1", digest_of(manifest)):
            response = cached.get_manifest(reference)
            assert (response.status_code, response.json()["errors"][0]["code"]) == (503, "UNAVAILABLE")
        meddler.heal()
        assert cached.get_manifest("1").content == manifest

    def test_that_are_too_large_are_not_read_on(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        digest = upstream.push_blob(os.urandom(5 * MEGABYTE))
        location = f"{upstream.path}/blobs/{digest}"
        meddler.harm("GET .*/manifests/", status=307, headers={"Location": location})
        assert cached.get_manifest("large").status_code == 503

    def test_of_a_digest_that_is_sha512(self, upstream: Repository, cached: Repository) -> None:
        manifest = upstream.push_image()
        digest = digest_of(manifest, "sha512")
        upstream.push_manifest(manifest, digest)
        assert cached.get_manifest(digest).headers["docker-content-digest"] == digest


class TestBlobs:
    def test_are_fetched_once(self, meddler: Meddler, upstream: Repository, cached: Repository) -> None:
        content = os.urandom(3 * MEGABYTE)
        digest = upstream.push_blob(content)
        for _ in range(3):
            assert cached.get_blob(digest).content == content
        assert meddler.count("/blobs/") == 1

    @pytest.mark.parametrize("content", [b"", b"x", b"small", os.urandom(MEGABYTE + 1)], ids=len)
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_of_every_size_and_digest(
        self, upstream: Repository, cached: Repository, content: bytes, algorithm: str
    ) -> None:
        digest = upstream.push_blob(content, algorithm)
        for _ in range(2):
            response = cached.get_blob(digest)
            assert response.content == content
            assert response.headers["content-length"] == str(len(content))
            assert response.headers["docker-content-digest"] == digest

    def test_fifty_pulls_at_once_are_one_fetch(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry
    ) -> None:
        """Whichever worker they come to: while it arrives, it is streamed to all of them."""
        content = os.urandom(32 * MEGABYTE)
        digest = upstream.push_blob(content)
        gate = threading.Event()
        meddler.harm("GET .*/blobs/", gate=gate)
        begun = threading.Semaphore(0)

        def pull() -> str:
            received = []
            with cache.fresh.stream("GET", f"{cache.url}{upstream.path}/blobs/{digest}") as response:
                for piece in response.iter_raw():
                    received.append(piece)
                    if len(received) == 1:
                        begun.release()
            return digest_of(b"".join(received))

        with ThreadPoolExecutor(50) as pool:
            pulls = [pool.submit(pull) for _ in range(50)]
            for _ in pulls:
                assert begun.acquire(timeout=60), "a client got nothing although half of the blob is there"
            gate.set()
            assert {one.result() for one in pulls} == {digest}
        assert meddler.count("GET .*/blobs/") == 1

    def test_head_fetches_nothing(self, meddler: Meddler, upstream: Repository, cached: Repository) -> None:
        content = unique()
        digest = upstream.push_blob(content)
        response = cached.client.head(f"{cached.path}/blobs/{digest}")
        assert response.headers["content-length"] == str(len(content))
        assert meddler.count("GET .*/blobs/") == 0

    def test_a_part_is_served_from_the_whole(self, meddler: Meddler, upstream: Repository, cached: Repository) -> None:
        content = os.urandom(2 * MEGABYTE)
        digest = upstream.push_blob(content)
        for _ in range(2):
            response = cached.get_blob(digest, range=f"bytes={MEGABYTE}-{MEGABYTE + 99}")
            assert response.status_code == 206
            assert response.content == content[MEGABYTE : MEGABYTE + 100]
        assert cached.get_blob(digest).content == content
        assert meddler.count("GET .*/blobs/") == 1

    def test_what_the_upstream_does_not_have_is_unknown(self, cached: Repository) -> None:
        digest = digest_of(b"nothing")
        response = cached.get_blob(digest)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
        assert cached.client.head(f"{cached.path}/blobs/{digest}").status_code == 404

    def test_of_another_repository_are_taken_over_when_the_upstream_has_them_there_too(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        content = unique()
        digest = upstream.push_blob(content)
        assert cached.get_blob(digest).content == content
        other, cached_other = upstream.sibling("other"), cached.sibling("other")
        assert cached_other.get_blob(digest).status_code == 404, "what one repository holds is not shown by another"
        other.push_blob(content)
        assert cached_other.get_blob(digest).content == content
        assert meddler.count("GET .*/blobs/") == 1

    def test_whoever_leaves_does_not_stop_it_for_others(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry, cached: Repository
    ) -> None:
        content = os.urandom(8 * MEGABYTE)
        digest = upstream.push_blob(content)
        gate = threading.Event()
        meddler.harm("GET .*/blobs/", gate=gate)
        with cache.fresh.stream("GET", f"{cache.url}{upstream.path}/blobs/{digest}") as leaves:
            next(leaves.iter_raw())
            with cache.fresh.stream("GET", f"{cache.url}{upstream.path}/blobs/{digest}") as stays:
                leaves.close()
                gate.set()
                assert stays.read() == content
        assert meddler.count("GET .*/blobs/") == 1

    def test_a_fetch_is_finished_for_the_next_when_all_have_left(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry, cached: Repository
    ) -> None:
        content = os.urandom(8 * MEGABYTE)
        digest = upstream.push_blob(content)
        gate = threading.Event()
        meddler.harm("GET .*/blobs/", gate=gate)
        with cache.fresh.stream("GET", f"{cache.url}{upstream.path}/blobs/{digest}") as leaves:
            next(leaves.iter_raw())
        gate.set()
        until(lambda: _stored(cache, digest).exists(), "the blob is kept")
        assert cached.get_blob(digest).content == content
        assert meddler.count("GET .*/blobs/") == 1


class TestFaultsOfBlobs:
    def test_a_cut_stream_goes_on_where_it_was_cut(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        content = os.urandom(4 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", cut_after=MEGABYTE, times=3)
        assert cached.get_blob(digest).content == content
        parts = [asked.headers["Range"] for asked in meddler.asked if "Range" in asked.headers]
        assert len(parts) == 3
        assert all(1 <= int(part.removeprefix("bytes=").removesuffix("-")) <= 3 * MEGABYTE for part in parts)

    def test_one_that_stalls_goes_on_as_well(self, serve: Serve, meddler: Meddler, upstream: Repository) -> None:
        cache = serve({"proxy": {"remoteurl": meddler.url, "timeouts": {"idle": "8s"}}})
        content = os.urandom(4 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", gate=threading.Event(), times=1)
        assert Repository(cache.client(), upstream.name).get_blob(digest).content == content
        assert meddler.count("GET .*/blobs/") == 2

    def test_one_that_never_comes_breaks(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry, cached: Repository
    ) -> None:
        content = os.urandom(4 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", cut_after=MEGABYTE, times=1)
        meddler.harm("GET .*/blobs/", cut_after=0)
        with pytest.raises(httpx.RemoteProtocolError):
            cached.get_blob(digest)
        assert not _stored(cache, digest).exists()
        meddler.heal()
        assert cached.get_blob(digest).content == content

    @pytest.mark.parametrize("at", [0, 2 * MEGABYTE, 4 * MEGABYTE - 1])
    def test_content_that_is_not_the_blob_breaks_and_is_not_kept(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry, cached: Repository, at: int
    ) -> None:
        """No client may take it for whole, and the next one gets what it asked for."""
        content = os.urandom(4 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", corrupt_at=at)
        with pytest.raises(httpx.RemoteProtocolError):
            cached.get_blob(digest)
        until(lambda: not _unfinished(cache, upstream), "nothing of it is left")
        assert not _stored(cache, digest).exists()
        meddler.heal()
        assert cached.get_blob(digest).content == content

    def test_a_small_one_is_answered_with_an_error(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        content = unique()
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", corrupt_at=3)
        assert cached.get_blob(digest).status_code == 503
        meddler.heal()
        assert cached.get_blob(digest).content == content

    def test_everyone_who_waits_for_it_is_told(
        self, meddler: Meddler, upstream: Repository, cache: LiveRegistry
    ) -> None:
        """At the worker that fetches it and at the one that follows."""
        digest = upstream.push_blob(os.urandom(100_000))
        gate = threading.Event()
        meddler.harm("GET .*/blobs/", gate=gate, corrupt_at=99_000)
        with ThreadPoolExecutor(12) as pool:
            pulls = [pool.submit(cache.fresh.get, f"{cache.url}{upstream.path}/blobs/{digest}") for _ in range(12)]
            until(lambda: cache.metric("regatta_http_requests_in_flight") == 12, "all of them wait")
            gate.set()
            assert {pull.result().status_code for pull in pulls} == {503}

    def test_an_upstream_without_ranges_is_read_again(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        content = os.urandom(4 * MEGABYTE)
        digest = upstream.push_blob(content)
        with Meddler(meddler.address) as place:
            place.ranges = False
            meddler.harm(
                "GET .*/blobs/", status=307, headers={"Location": f"{place.url}{upstream.path}/blobs/{digest}"}, times=2
            )
            place.harm("GET .*/blobs/", cut_after=MEGABYTE, times=1)
            assert cached.get_blob(digest).content == content
            assert place.count("GET .*/blobs/") == 2

    def test_a_kill_in_the_middle_leaves_nothing_partial(
        self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry
    ) -> None:
        content = os.urandom(8 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", gate=threading.Event(), times=1)
        with own_cache.fresh.stream("GET", f"{own_cache.url}{upstream.path}/blobs/{digest}") as response:
            pieces = response.iter_raw()
            next(pieces)
            own_cache.kill()
            with pytest.raises(httpx.TransportError):
                for _ in pieces:
                    pass
        assert not _stored(own_cache, digest).exists()
        own_cache.start()
        assert Repository(own_cache.client(), upstream.name).get_blob(digest).content == content
        assert _stored(own_cache, digest).read_bytes() == content
        assert not any((own_cache.data / ".regatta" / "spool").glob("*/*")), "what the kill left was used and removed"

    def test_a_worker_that_is_killed_does_not_hold_up_the_others(
        self, serve: Serve, meddler: Meddler, upstream: Repository
    ) -> None:
        cache = serve(_settings(meddler), workers=2)
        cache.crashes_expected = True
        content = os.urandom(8 * MEGABYTE)
        digest = upstream.push_blob(content)
        meddler.harm("GET .*/blobs/", gate=threading.Event(), times=1)
        url = f"{cache.url}{upstream.path}/blobs/{digest}"
        with cache.fresh.stream("GET", url) as response:
            pieces = response.iter_raw()
            next(pieces)
            for pid in cache.worker_pids():
                cache.kill_worker(pid)
            with pytest.raises(httpx.TransportError):
                for _ in pieces:
                    pass
        until(lambda: len(cache.worker_pids()) == 2, "workers are there again")
        assert cache.fresh.get(url).content == content

    def test_slow_clients_cost_no_memory(self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry) -> None:
        """The spool file holds what they have not taken yet."""
        content = os.urandom(64 * MEGABYTE)
        digest = upstream.push_blob(content)
        before = _memory(own_cache)
        with ThreadPoolExecutor(1):
            slow = [_begin(own_cache, f"{upstream.path}/blobs/{digest}") for _ in range(20)]
            until(lambda: _stored(own_cache, digest).exists(), "the blob is there, though nobody has taken it")
            assert _memory(own_cache) - before < 40 * MEGABYTE
            for response in slow:
                response.close()


class TestLists:
    def test_tags_are_those_of_the_upstream(self, upstream: Repository, cached: Repository) -> None:
        for tag in ("a", "b", "c"):
            upstream.push_image(tag)
        assert cached.tags() == ["a", "b", "c"]
        first = cached.client.get(f"{cached.path}/tags/list", params={"n": 2})
        assert first.json()["tags"] == ["a", "b"]
        following = first.links["next"]["url"]
        assert cached.client.get(following).json()["tags"] == ["c"]

    def test_tags_are_those_that_are_here_while_the_upstream_is_away(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        for tag in ("a", "b"):
            upstream.push_image(tag)
        cached.get_manifest("a")
        meddler.harm(".", status=500)
        assert cached.tags() == ["a"]

    def test_an_unknown_repository(self, meddler: Meddler, cached: Repository) -> None:
        response = cached.sibling("nothing").client.get(f"{cached.path}/nothing/tags/list")
        assert (response.status_code, response.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")

    def test_referrers_are_those_of_the_upstream(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        subject = upstream.push_image("1")
        described = {"mediaType": OCI_MANIFEST, "digest": digest_of(subject), "size": len(subject)}
        signature = upstream.push_image(subject=described, artifactType="application/signature")
        upstream.push_image(subject=described, artifactType="application/other")
        digest = digest_of(subject)
        assert len(cached.referrers(digest)) == 2
        (found,) = cached.referrers(digest, artifactType="application/signature")
        assert found["digest"] == digest_of(signature)
        assert cached.get_manifest(found["digest"]).content == signature
        meddler.harm(".", status=502)
        assert [one["digest"] for one in cached.referrers(digest)] == [found["digest"]]

    def test_referrers_that_clients_keep_by_tag_are_found(
        self, meddler: Meddler, upstream: Repository, cached: Repository
    ) -> None:
        """As at Docker Hub of old: an upstream without the API."""
        subject, signature = upstream.push_image("1"), upstream.push_image()
        upstream.push_manifest(index([signature]), digest_of(subject).replace(":", "-"), OCI_INDEX)
        meddler.harm("/referrers/", status=404)
        assert [one["digest"] for one in cached.referrers(digest_of(subject))] == [digest_of(signature)]


class TestWriting:
    def test_is_refused_with_the_reason(self, upstream: Repository, cached: Repository) -> None:
        manifest = upstream.push_image("1")
        upload = cached.client.post(f"{cached.path}/blobs/uploads/")
        mount = cached.client.post(f"{cached.path}/blobs/uploads/", params={"mount": digest_of(b"{}"), "from": "other"})
        put = cached.put_manifest(manifest, "1")
        untag = cached.client.delete(f"{cached.path}/manifests/1")
        delete = cached.client.delete(f"{cached.path}/manifests/{digest_of(manifest)}")
        blob = cached.client.delete(f"{cached.path}/blobs/{digest_of(b'{}')}")
        for response in (upload, mount, put, untag, delete, blob):
            (error,) = response.json()["errors"]
            assert (response.status_code, error["code"]) == (405, "UNSUPPORTED")
            assert error["message"].startswith("this registry is a pull-through cache of ")


class TestUpstreamAway:
    @pytest.mark.parametrize("status", [500, 502, 503, 401, 403])
    def test_what_is_here_is_served(
        self, meddler: Meddler, upstream: Repository, cached: Repository, status: int
    ) -> None:
        manifest = upstream.push_image("1")
        cached.get_manifest("1")
        meddler.harm(".", status=status)
        for reference in ("1", digest_of(manifest)):
            assert cached.get_manifest(reference).content == manifest

    @pytest.mark.parametrize(("status", "answer"), [(500, 503), (503, 503), (401, 403), (403, 403)])
    def test_what_is_not_here_is_answered_with_the_reason(
        self, meddler: Meddler, upstream: Repository, cached: Repository, status: int, answer: int
    ) -> None:
        upstream.push_image("1")
        meddler.harm(".", status=status)
        responses = [
            cached.get_manifest("1"),
            cached.get_manifest(digest_of(b"nothing")),
            cached.get_blob(digest_of(b"{}")),
        ]
        for response in responses:
            assert response.status_code == answer
            assert meddler.address in response.json()["errors"][0]["message"]

    def test_one_that_can_not_be_reached_is_left_alone_for_a_while(
        self, serve: Serve, registry: LiveRegistry, upstream: Repository
    ) -> None:
        """Pulls of what is here go on at once, rather than wait for a connection each."""
        with Meddler(registry.address) as upstream_server:
            cache = serve(_settings(upstream_server))
            cached = Repository(cache.client(), upstream.name)
            manifest = upstream.push_image("1")
            assert cached.get_manifest("1").content == manifest
        for _ in range(5):
            assert cached.get_manifest("1").content == manifest
        assert cached.get_manifest("2").headers["retry-after"] == "5"
        assert cache.metric("regatta_proxy_upstream_errors_total", reason="unreachable") == 1
        assert cache.metric("regatta_proxy_pulls_total", kind="manifest", result="stale") == 5
        cache.kill()
        cache.start()
        assert Repository(cache.client(), upstream.name).get_manifest("1").content == manifest, "after a restart, too"

    def test_a_limit_is_respected(self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry) -> None:
        cached = Repository(own_cache.client(), upstream.name)
        manifest = upstream.push_image("1")
        upstream.push_image("2")
        cached.get_manifest("1")
        meddler.forget()
        meddler.harm(".", status=429, headers={"Retry-After": "3600"}, times=1)
        response = cached.get_manifest("2")
        assert (response.status_code, response.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert 3590 <= int(response.headers["retry-after"]) <= 3600
        assert cached.get_manifest("1").content == manifest
        assert cached.get_manifest("2").status_code == 429
        assert meddler.count(".") == 1, "nothing is asked until the time is over"

    def test_and_over_when_it_says_so(self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry) -> None:
        cached = Repository(own_cache.client(), upstream.name)
        manifest = upstream.push_image("1")
        meddler.harm(".", status=429, headers={"Retry-After": "1"}, times=1)
        assert cached.get_manifest("1").status_code == 429
        until(lambda: cached.get_manifest("1").content == manifest, "the upstream is asked again")
        assert meddler.count(".") == 2


class TestMetrics:
    def test_tell_hits_misses_and_bytes_by_upstream(
        self, meddler: Meddler, upstream: Repository, own_cache: LiveRegistry
    ) -> None:
        cached = Repository(own_cache.client(), upstream.name)
        layer = os.urandom(MEGABYTE)
        manifest = upstream.push_image("1", layers=[layer])
        for _ in range(2):
            cached.get_manifest("1")
            cached.get_blob(digest_of(layer))
        host = urlsplit(meddler.url).netloc
        for kind in ("manifest", "blob"):
            for result in ("hit", "miss"):
                labels = {"upstream": host, "kind": kind, "result": result}
                assert own_cache.metric("regatta_proxy_pulls_total", **labels) == 1, labels
        received = own_cache.metric("regatta_proxy_upstream_bytes_total", upstream=host)
        assert received == len(layer) + len(manifest)


def test_access_policies_hold(serve: Serve, meddler: Meddler, upstream: Repository) -> None:
    """Who may pull from the cache is the cache's to say, and what is refused is not even asked for."""
    policies = [{"subjects": ["user:ci"], "repositories": [f"{upstream.name}/**"], "role": "reader"}]
    cache = serve({**_settings(meddler), "access": {"policies": policies}}, users={"ci": "secret", "other": "secret"})
    upstream.sibling("app").push_image("1")
    path = f"{upstream.path}/app/manifests/1"
    assert cache.client().get(path).status_code == 401
    assert cache.client("other", "secret").get(path).status_code == 403
    assert meddler.count(".") == 0
    assert cache.client("ci", "secret").get(path).status_code == 200


def test_in_read_only_maintenance_what_is_here_is_served(serve: Serve, meddler: Meddler, upstream: Repository) -> None:
    settings = _settings(meddler)
    cache = serve(settings)
    manifest = upstream.push_image("1")
    upstream.push_image("2")
    assert Repository(cache.client(), upstream.name).get_manifest("1").content == manifest
    cache.stop()
    read_only = {
        "storage": {"filesystem": {"rootdirectory": str(cache.data)}, "maintenance": {"readonly": {"enabled": True}}}
    }
    frozen = Repository(serve({**settings, **read_only}).client(), upstream.name)
    meddler.forget()
    assert frozen.get_manifest("1").content == manifest
    assert frozen.get_manifest("2").status_code == 404
    assert meddler.count(".") == 0


def _settings(upstream: Meddler) -> dict[str, object]:
    return {"proxy": {"remoteurl": upstream.url, "timeouts": TIMEOUTS}}


def _stored(cache: LiveRegistry, digest: str) -> Path:
    algorithm, _, hexadecimal = digest.partition(":")
    return cache.root / "blobs" / algorithm / hexadecimal[:2] / hexadecimal / "data"


def _unfinished(cache: LiveRegistry, repository: Repository) -> list[Path]:
    uploads = cache.root / "repositories" / repository.name / "_uploads"
    return [*(cache.data / ".regatta" / "spool").glob("*/*"), *uploads.glob("*")]


def _begin(cache: LiveRegistry, path: str) -> httpx.Response:
    """A pull whose client takes nothing of the body."""
    client = cache.fresh
    return client.send(client.build_request("GET", f"{cache.url}{path}"), stream=True)


def _memory(cache: LiveRegistry) -> int:
    (pid,) = cache.worker_pids()
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(resident.split()[1]) * 1024
