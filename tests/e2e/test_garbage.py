"""A registry's pod removes what nothing refers to, beside the processes that serve."""

from collections.abc import Callable

from tests.e2e.harness.namespaces import Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry

OFTEN = {"garbageCollection": {"interval": "1m", "grace": "10m", "deleteUntagged": True}}


def test_garbage_is_collected_in_the_pod(
    operator: Release, product: Product, new_namespace: Callable[[str], Namespace]
) -> None:
    registry = LiveRegistry.make(new_namespace("garbage"), product, spec=OFTEN)
    (pod,) = registry.pods()
    with registry.client() as client:
        client.push_random("team/app:1")
        registry.await_log("garbage-collect: 1 repositories with 1 manifests: no garbage", within=180)
        client.validate("team/app:1")
    assert [one["metadata"]["uid"] for one in registry.pods()] == [pod["metadata"]["uid"]]
