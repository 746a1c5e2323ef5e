"""regctl, as on a file system, with content that comes through the server.

From a registry with TLS it follows no redirect to a store without, as those of the tests are.
"""

from collections.abc import Iterator

import pytest

from tests.clients.conftest import PASSWORD, USER
from tests.clients.test_regctl import (  # noqa: F401
    logged_in,
    regctl,
    test_a_copy_takes_along_what_refers_to_it,
    test_a_login_is_needed,
    test_a_tag_is_deleted_alone,
    test_an_image_in_chunks_goes_in_and_out,
)
from tests.objectstore.stores import Store
from tests.server.live import LiveRegistry, serving


@pytest.fixture(scope="module")
def private(shared: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    settings = {"storage": shared.storage("/regctl", redirect={"disable": True})}
    folder = tmp_path_factory.mktemp("regctl")
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2, environ=shared.environ) as registry:
        yield registry
