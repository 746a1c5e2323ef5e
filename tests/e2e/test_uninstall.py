"""An operator that is uninstalled leaves all that people have, and stands in nobody's way."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry

CRD = "crd/registries.regatta.dev"


@dataclass(frozen=True)
class Left:
    """A Registry whose operator was uninstalled: what it was before."""

    registry: LiveRegistry
    resource: Json
    pods: list[str]


@pytest.fixture(scope="module")
def left(release: Release, product: Product, new_namespace: Callable[[str], Namespace]) -> Left:
    """Uninstalled as the manual says, with an image in the registry."""
    release.install(product)
    registry = LiveRegistry.make(new_namespace("left"), product)
    with registry.client() as client:
        client.push_random("team/data:1")
    before = Left(registry, registry.resource, _uids(registry))
    release.uninstall()
    return before


def test_crds_registries_and_pods_stay_and_serve(release: Release, left: Left) -> None:
    assert release.pods() == []
    assert left.registry.resource == left.resource
    assert _uids(left.registry) == left.pods
    with left.registry.client() as client:
        client.validate("team/data:1")
        client.push_random("team/data:2")


def test_a_release_installed_later_takes_them_up_and_changes_nothing(
    release: Release, product: Product, left: Left
) -> None:
    """Though it acts: another Registry is made and deleted meanwhile."""
    release.install(product)
    other = LiveRegistry.make(left.registry.namespace, product, "other")
    assert left.registry.resource == left.resource
    assert _uids(left.registry) == left.pods
    other.delete()
    release.uninstall()


def test_a_registry_is_deleted_without_an_operator(release: Release, left: Left) -> None:
    """No finalizer waits for one. The volume stays, as when there is one, and its content comes back."""
    registry, namespace = left.registry, left.registry.namespace
    claim = namespace.get("pvc", "team-data")
    assert "ownerReferences" not in claim["metadata"]
    registry.delete()
    assert namespace.get("pvc", "team-data")["metadata"]["uid"] == claim["metadata"]["uid"]
    for kind in ("deployments", "services", "configmaps", "secrets"):
        namespace.kubectl("wait", kind, f"--selector={registry.selector}", "--for=delete", "--timeout=60s")


def test_a_registry_made_again_has_its_content(release: Release, product: Product, left: Left) -> None:
    release.install(product)
    again = LiveRegistry.make(left.registry.namespace, product, left.registry.name)
    with again.client() as client:
        client.validate("team/data:1")
        client.validate("team/data:2")
    release.uninstall()


def test_a_namespace_goes_with_all_that_is_in_it(left: Left) -> None:
    """Nothing hangs on a finalizer: the operator is gone."""
    namespace = left.registry.namespace
    assert namespace.get("registries")["items"]
    namespace.cluster.kubectl("delete", "namespace", namespace.name, "--timeout=120s")


def test_registries_go_with_their_crd_only_where_that_was_asked_for(
    release: Release, product: Product, new_namespace: Callable[[str], Namespace]
) -> None:
    """In a value of its own, before the release is uninstalled. The volume stays even then."""
    release.install(product, {"crds": {"keep": False}})
    registry = LiveRegistry.make(new_namespace("asked"), product)
    release.uninstall()
    release.cluster.kubectl("wait", CRD, "--for=delete", "--timeout=60s")
    registry.namespace.kubectl("wait", "pods", f"--selector={registry.selector}", "--for=delete", "--timeout=120s")
    assert registry.namespace.get("pvc", "team-data")["status"]["phase"] == "Bound"


def _uids(registry: LiveRegistry) -> list[str]:
    return sorted(pod["metadata"]["uid"] for pod in registry.pods())
