"""What `tests/server` says of the protocol holds on every store, but for what is about files and their locks."""

from collections.abc import Iterator

import pytest

from tests.objectstore.stores import Store
from tests.server.content import OCI_INDEX, Repository, index
from tests.server.live import LiveRegistry, serving
from tests.server.test_blobs import (  # noqa: F401
    TestDelete,
    TestRanges,
    ranges,
    test_a_blob_has_the_headers_caches_live_by,
    test_a_client_that_has_the_blob_gets_none,
    test_a_malformed_digest_is_refused,
    test_a_repository_serves_only_its_own_blobs,
)
from tests.server.test_lists import (  # noqa: F401
    NAMES,
    TAGS,
    listing,
    test_a_repository_with_nothing_but_blobs_has_no_list,
    test_deleting_the_last_manifest_keeps_other_lists_right,
    test_tags_come_and_go_on_the_list_at_once,
    test_the_catalog_shows_what_its_reader_may_pull,
    test_without_a_limit_everything_is_on_the_list,
)
from tests.server.test_manifests import (  # noqa: F401
    TestReferences,
    TestRoundTrip,
    TestSize,
)
from tests.server.test_manifests import TestTags as _TestTags
from tests.server.test_referrers import (  # noqa: F401
    test_a_filter_applies_and_says_so,
    test_a_subject_may_be_named_by_sha512,
    test_each_referrer_is_described,
    test_nothing_refers_to_the_unknown,
    test_referrers_may_come_before_their_subject,
)
from tests.server.test_uploads import (  # noqa: F401
    TestChunked,
    TestMonolithic,
    TestMount,
    TestWrongContent,
    test_nobody_mounts_what_they_may_not_read,
    test_uploads_go_on_after_a_restart,
    test_uploads_go_on_at_whatever_worker_takes_the_next_request,
)


class TestTags(_TestTags):
    """As on a file system, but for a race that the folders behind the S3 server of the tests lose: S3 has none."""

    test_a_tag_pushed_and_deleted_at_once_is_there_or_not_but_never_broken = None


@pytest.fixture(scope="module")
def full(shared: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """A registry with all these repositories, one of which has all these tags."""
    folder = tmp_path_factory.mktemp("lists")
    with serving(folder, {"storage": shared.storage("/lists")}, environ=shared.environ) as registry:
        client = registry.client()
        for name in NAMES:
            Repository(client, name).push_manifest(index(), "latest", OCI_INDEX)
        for tag in TAGS:
            Repository(client, "a").push_manifest(index(), tag, OCI_INDEX)
        yield registry
