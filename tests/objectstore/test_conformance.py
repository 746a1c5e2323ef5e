"""The official conformance suite on each store: nothing failed, nothing skipped.

Without redirects, as it looks for the registry's headers in the last response, which would be the store's.
"""

from pathlib import Path

from tests.conformance.test_conformance import DRAFT, _assert_conforms
from tests.conformance.test_conformance import _no_configuration_from_outside as _no_configuration  # noqa: F401
from tests.objectstore.stores import Store
from tests.server.live import serving


def test_the_draft_of_the_next_one_with_sparse_manifests(shared: Store, conformance: Path, tmp_path: Path) -> None:
    settings = {"manifests": {"sparse": "all"}, "storage": shared.storage("/conformance", redirect={"disable": True})}
    with serving(tmp_path, settings, users={"ci": "secret"}, workers=2, environ=shared.environ) as registry:
        _assert_conforms(conformance, registry, DRAFT)
