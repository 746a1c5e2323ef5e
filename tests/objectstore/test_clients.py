"""skopeo and crane, as on a file system, with content that comes from the store by redirects."""

from collections.abc import Callable, Iterator

import pytest

from tests.clients.conftest import PASSWORD, PUBLIC, USER
from tests.clients.test_crane import (  # noqa: F401
    at_private as crane_at_private,
)
from tests.clients.test_crane import test_a_multi_platform_image_is_whole as _crane_index
from tests.clients.test_crane import test_an_image_is_pushed_copied_tagged_listed_and_deleted as _crane_image
from tests.clients.test_skopeo import (  # noqa: F401
    at_private,
    at_public,
    test_a_multi_platform_image_comes_back_whole,
    test_a_public_image_goes_out_without_a_login_and_in_with_one,
    test_an_image_comes_back_as_it_went,
    test_nothing_goes_without_a_login,
    test_tags_are_listed_and_images_deleted,
)
from tests.objectstore.stores import Store
from tests.server.live import LiveRegistry, serving


@pytest.fixture(scope="module", params=["s3", "azure"])
def made(request: pytest.FixtureRequest, stores: Callable[[str], Store]) -> Store:
    """A store that signs addresses."""
    return stores(request.param)


@pytest.fixture(scope="module")
def private(made: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    folder = tmp_path_factory.mktemp("private")
    settings = {"storage": made.storage("/private")}
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


@pytest.fixture(scope="module")
def public(made: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    folder = tmp_path_factory.mktemp("public")
    settings = {"storage": made.storage("/public"), "access": {"policies": PUBLIC}}
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


test_crane_with_an_image = _crane_image
test_crane_with_a_multi_platform_image = _crane_index
