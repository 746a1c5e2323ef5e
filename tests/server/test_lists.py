"""Lists of tags and repositories, a page at a time."""

from bisect import bisect_right
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import OCI_INDEX, Repository, digest_of, error_codes, index
from tests.server.live import LiveRegistry, serving

# In ASCII order digits come before capitals, `_`, and small letters; `.` and `-` before all of them.
TAGS = sorted([f"v{number}" for number in range(12)] + ["A", "a", "_", "Z.9", "Z-9", "a.b", "a-b", "0", "latest"])
NAMES = sorted([f"team-{number}/app" for number in range(9)] + ["a", "a-b", "a/b", "a.b", "a_b", "z/deep/down/there"])
WORDS = st.sampled_from([*TAGS, *NAMES]) | st.text(max_size=20)


@pytest.fixture(scope="module", params=METADATA)
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """A registry with all these repositories, one of which has all these tags."""
    folder = tmp_path_factory.mktemp("lists")
    with serving(folder, metadata_settings(request.param, request, folder)) as registry:
        client = registry.client()
        for name in NAMES:
            Repository(client, name).push_manifest(index(), "latest", OCI_INDEX)
        for tag in TAGS:
            Repository(client, "a").push_manifest(index(), tag, OCI_INDEX)
        yield registry


@pytest.fixture(scope="module", params=["tags", "repositories"])
def listing(request: pytest.FixtureRequest, full: LiveRegistry) -> "Listing":
    if request.param == "tags":
        return Listing(full.client(), "/v2/a/tags/list", "tags", TAGS)
    return Listing(full.client(), "/v2/_catalog", "repositories", NAMES)


class Listing:
    """One of the two lists, with what should be on it."""

    def __init__(self, client: httpx.Client, path: str, field: str, entries: list[str]) -> None:
        self.client, self.path, self.field, self.entries = client, path, field, entries

    def page(self, path: str, **query: str | int) -> tuple[list[str], str | None]:
        """The entries of a page and the link to the next one."""
        response = self.client.get(path, params=query or None)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()[self.field], response.links.get("next", {}).get("url")


def test_without_a_limit_everything_is_on_the_list(listing: Listing) -> None:
    assert listing.page(listing.path) == (listing.entries, None)


@given(count=st.integers(1, 25))
def test_the_pages_together_are_the_list(listing: Listing, count: int) -> None:
    collected, following = listing.page(listing.path, n=count)
    assert len(collected) == min(count, len(listing.entries))
    while following:
        page, following = listing.page(following)
        assert 0 < len(page) <= count
        collected += page
    assert collected == listing.entries


@given(last=WORDS, count=st.none() | st.integers(1, 25))
def test_a_page_begins_after_a_word_that_need_not_be_on_the_list(
    listing: Listing, last: str, count: int | None
) -> None:
    rest = listing.entries[bisect_right(listing.entries, last) :]
    query: dict[str, str | int] = {"last": last} | ({} if count is None else {"n": count})
    page, following = listing.page(listing.path, **query)
    assert page == rest[:count]
    assert (following is not None) == (len(page) < len(rest))


def test_a_page_of_none_is_the_last(listing: Listing) -> None:
    assert listing.page(listing.path, n=0) == ([], None)


def test_more_than_there_are_is_fine(listing: Listing) -> None:
    assert listing.page(listing.path, n=10**17) == (listing.entries, None)


@pytest.mark.parametrize("count", ["-1", "x", "", "1.5", "9" * 30, "٣"])
def test_what_is_no_number_is_refused(listing: Listing, count: str) -> None:
    response = listing.client.get(listing.path, params={"n": count})
    assert response.status_code == 400
    assert error_codes(response) == ["PAGINATION_NUMBER_INVALID"]


def test_tags_come_and_go_on_the_list_at_once(repository: Repository) -> None:
    """However long ago the list was asked for last, and by whichever worker."""
    for number in range(20):
        repository.push_manifest(index(), f"v{number:02}", OCI_INDEX)
        assert len(repository.tags()) == number + 1
    for number in range(20):
        repository.client.delete(f"{repository.path}/manifests/v{number:02}")
        assert len(repository.tags()) == 19 - number
    assert repository.client.get(f"{repository.path}/tags/list").json() == {"name": repository.name, "tags": []}


def test_a_repository_with_nothing_but_blobs_has_no_list(repository: Repository) -> None:
    repository.push_blob(b"content")
    assert repository.client.get(f"{repository.path}/tags/list").status_code == 404
    repository.push_manifest(index(), None, OCI_INDEX)
    assert repository.client.get(f"{repository.path}/tags/list").json()["tags"] == []


def test_the_catalog_shows_what_its_reader_may_pull(serve: Serve) -> None:
    policies = [
        {"subjects": ["anonymous"], "repositories": ["public/**"], "actions": ["pull"]},
        {"subjects": ["user:dev"], "repositories": ["team/*"], "role": "writer"},
        {"subjects": ["user:admin"], "repositories": ["**"], "role": "admin"},
    ]
    registry = serve({"access": {"policies": policies}}, users={"dev": "d", "admin": "a"})
    everything = ["public/a", "public/b", "secret/a", "team/a", "team/a/b"]
    for name in everything:
        Repository(registry.client("admin", "a"), name).push_manifest(index(), "v1", OCI_INDEX)
    assert _catalog(registry.client("admin", "a")) == everything
    assert _catalog(registry.client("dev", "d")) == ["public/a", "public/b", "team/a"]
    page = registry.client("dev", "d").get("/v2/_catalog", params={"n": 1, "last": "public/b"})
    assert page.json()["repositories"] == ["team/a"]
    assert "link" not in page.headers


def test_deleting_the_last_manifest_keeps_other_lists_right(repository: Repository) -> None:
    repository.push_manifest(index(), "v1", OCI_INDEX)
    repository.client.delete(f"{repository.path}/manifests/{digest_of(index())}")
    assert repository.tags() == []


def _catalog(client: httpx.Client) -> list[str]:
    repositories: list[str] = client.get("/v2/_catalog").json()["repositories"]
    return repositories
