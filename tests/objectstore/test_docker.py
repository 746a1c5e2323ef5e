"""The Docker engine, as on a file system, with content that comes from the store by redirects."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, PUBLIC, USER
from tests.clients.test_docker import (  # noqa: F401
    test_a_private_registry_takes_and_gives_after_a_login_only,
    test_a_public_registry_gives_to_everyone_and_takes_after_a_login,
    test_layers_of_one_repository_are_mounted_into_another,
)
from tests.fixtures.docker import VERIFIED_ADDRESS
from tests.objectstore.stores import Store
from tests.server.live import LiveRegistry, serving


@pytest.fixture
def private(signing: Store, tmp_path: Path) -> Iterator[LiveRegistry]:
    settings = {"storage": signing.storage(f"/docker-{tmp_path.name}")}
    folder = tmp_path / "registry"
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2, host=VERIFIED_ADDRESS) as registry:
        yield registry


@pytest.fixture
def public(signing: Store, tmp_path: Path) -> Iterator[LiveRegistry]:
    settings = {"storage": signing.storage(f"/docker-{tmp_path.name}"), "access": {"policies": PUBLIC}}
    folder = tmp_path / "registry"
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2, host=VERIFIED_ADDRESS) as registry:
        yield registry
