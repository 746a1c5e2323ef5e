"""Fixtures of the operator's tests against a real API server."""

from collections.abc import Iterator

import pytest

from tests.fixtures.kubernetes import KubeAPI
from tests.operator.kube import Kube, Wire
from tests.operator.reconcile_world import World


@pytest.fixture(scope="session")
def kube(kube_api: KubeAPI) -> Iterator[Kube]:
    """The API server with our CRDs."""
    client = Kube(kube_api)
    yield client
    client.close()


@pytest.fixture
def namespace(kube: Kube) -> str:
    """A namespace of the test's own."""
    return kube.api.namespace("operator")


@pytest.fixture
def world(kube: Kube) -> Iterator[World]:
    """A namespace in which a test reconciles when it likes."""
    world = World(kube)
    yield world
    world.end()


@pytest.fixture
def wire(kube_api: KubeAPI) -> Iterator[Wire]:
    """A wire to the API server that the test may cut."""
    between = Wire(kube_api)
    yield between
    between.close()
