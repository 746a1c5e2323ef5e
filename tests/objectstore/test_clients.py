"""oras, Helm, buildah and containerd, as on a file system, with content that comes from the store by redirects."""

from tests.clients.test_buildah import (  # noqa: F401
    buildah,
    test_an_image_that_was_made_is_pushed_and_pulled_by_another,
)
from tests.clients.test_containerd import (  # noqa: F401
    node,
    test_an_image_of_two_platforms_goes_from_one_node_to_another,
)
from tests.clients.test_helm import (  # noqa: F401
    chart,
    helm,
    test_a_chart_is_pushed_after_a_login_and_pulled_by_its_version,
)
from tests.clients.test_oras import (  # noqa: F401
    oras,
    test_what_is_attached_is_discovered_pulled_and_copied_along,
)
