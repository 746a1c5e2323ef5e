"""How blobs go out: whole, in ranges, not at all when the client has them; and how a repository forgets one."""

import hashlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of, error_codes, unique

CONTENT = hashlib.shake_128(b"ranges").digest(1000)


@pytest.fixture(scope="module")
def ranges(client: httpx.Client) -> Repository:
    repository = Repository(client, "ranges/app")
    repository.push_blob(CONTENT)
    return repository


def test_a_blob_has_the_headers_caches_live_by(repository: Repository) -> None:
    digest = repository.push_blob(CONTENT)
    response = repository.get_blob(digest)
    assert response.content == CONTENT
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["docker-content-digest"] == digest
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert "max-age" in response.headers["cache-control"]


def test_a_client_that_has_the_blob_gets_none(repository: Repository) -> None:
    digest = repository.push_blob(CONTENT)
    for known in (f'"{digest}"', f'W/"{digest}"', f'"other", "{digest}"', "*"):
        response = repository.get_blob(digest, **{"if-none-match": known})
        assert (response.status_code, response.content) == (304, b"")
    assert repository.get_blob(digest, **{"if-none-match": '"other"'}).status_code == 200


def _get(ranges: Repository, span: str) -> httpx.Response:
    return ranges.get_blob(digest_of(CONTENT), range=span)


@given(start=st.integers(0, 1200), end=st.none() | st.integers(0, 1200))
def test_a_range_is_a_slice(ranges: Repository, start: int, end: int | None) -> None:
    wanted = CONTENT[start:] if end is None else CONTENT[start : end + 1]
    response = _get(ranges, f"bytes={start}-{'' if end is None else end}")
    if wanted:
        assert (response.status_code, response.content) == (206, wanted)
        assert response.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/1000"
        assert response.headers["content-length"] == str(len(wanted))
    else:
        assert response.status_code == 416
        assert error_codes(response) == ["RANGE_INVALID"]


@given(length=st.integers(1, 1200))
def test_a_suffix_is_a_slice_from_the_end(ranges: Repository, length: int) -> None:
    response = _get(ranges, f"bytes=-{length}")
    assert (response.status_code, response.content) == (206, CONTENT[-length:])


class TestRanges:
    @pytest.mark.parametrize(
        "span", ["bytes=1000-", "bytes=500-0", "bytes=1000-1001", "bytes=-0", "bytes=x-y", "bytes"]
    )
    def test_what_is_not_there_is_refused_with_the_size(self, ranges: Repository, span: str) -> None:
        response = _get(ranges, span)
        assert response.status_code == 416
        assert response.headers["content-range"] == "bytes */1000"

    @pytest.mark.parametrize("span", ["bytes=0-1,5-6", "lines=1-2", "0-1"])
    def test_what_is_not_understood_is_answered_by_the_whole(self, ranges: Repository, span: str) -> None:
        """RFC 9110, 14.2."""
        assert _get(ranges, span).content == CONTENT

    def test_a_range_of_something_else_is_answered_by_the_whole(self, ranges: Repository) -> None:
        digest = digest_of(CONTENT)
        assert ranges.get_blob(digest, range="bytes=0-9", **{"if-range": f'"{digest}"'}).content == CONTENT[:10]
        assert ranges.get_blob(digest, range="bytes=0-9", **{"if-range": '"other"'}).content == CONTENT

    def test_the_empty_blob_has_no_ranges(self, repository: Repository) -> None:
        digest = repository.push_blob(b"")
        assert repository.get_blob(digest, range="bytes=0-").status_code == 416


class TestDelete:
    def test_a_deleted_blob_is_gone_at_once(self, repository: Repository) -> None:
        digest = repository.push_blob(unique())
        path = f"{repository.path}/blobs/{digest}"
        assert repository.client.delete(path).status_code == 202
        assert repository.client.get(path).status_code == 404
        assert repository.client.head(path).status_code == 404
        assert repository.client.delete(path).status_code == 404

    def test_other_repositories_keep_it(self, repository: Repository) -> None:
        content = unique()
        other = repository.sibling("other")
        digest = repository.push_blob(content)
        other.push_blob(content)
        repository.client.delete(f"{repository.path}/blobs/{digest}")
        assert other.get_blob(digest).content == content

    def test_it_can_be_pushed_again(self, repository: Repository) -> None:
        content = unique()
        digest = repository.push_blob(content)
        repository.client.delete(f"{repository.path}/blobs/{digest}")
        repository.push_blob(content)
        assert repository.get_blob(digest).content == content

    def test_switched_off_it_is_refused(self, serve: Serve) -> None:
        repository = Repository(serve({"storage": {"delete": {"enabled": False}}}).client(), "app")
        manifest = repository.push_image("v1", layers=[b"layer"])
        for path in (f"blobs/{digest_of(b'layer')}", "manifests/v1", f"manifests/{digest_of(manifest)}"):
            response = repository.client.delete(f"{repository.path}/{path}")
            assert response.status_code == 405
            assert error_codes(response) == ["UNSUPPORTED"]
        assert repository.get_blob(digest_of(b"layer")).status_code == 200
        assert repository.tags() == ["v1"]


def test_a_repository_serves_only_its_own_blobs(repository: Repository) -> None:
    """That content is stored once is nothing a client may notice."""
    digest = repository.push_blob(unique())
    assert repository.sibling("other").get_blob(digest).status_code == 404


@pytest.mark.parametrize("digest", ["sha256:x", f"sha256:{'0' * 63}", f"sha1:{'0' * 40}", "sha256"])
def test_a_malformed_digest_is_refused(repository: Repository, digest: str) -> None:
    response = repository.get_blob(digest)
    assert response.status_code in (400, 404)
    assert error_codes(response) == ["DIGEST_INVALID"]
