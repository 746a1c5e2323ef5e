"""One `helm install`, one Registry, and pods run from what is pushed to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from registry_operator.api.registry import VERSION
from tests.chart.charts import RELEASE, Helm
from tests.e2e.harness.loading import load
from tests.e2e.harness.namespaces import ENFORCED, Json, Namespace, pod_of
from tests.e2e.harness.product import SYSTEM, Product, Release
from tests.e2e.harness.registries import LiveRegistry, Login
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import CommandFailed
from tests.fixtures.tools import Need
from tests.toolchain.catalog import ARCH


@pytest.fixture(scope="module")
def images(new_namespace: Callable[[str], Namespace]) -> Namespace:
    return new_namespace("images")


@pytest.fixture(scope="module")
def team(operator: Release, product: Product, images: Namespace) -> LiveRegistry:
    """A Registry with an empty spec: all is as it is by default."""
    return LiveRegistry.make(images, product)


@pytest.fixture(scope="module")
def pushed(team: LiveRegistry, need: Need, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of two images that say who they are, by their tags."""
    folder, program = tmp_path_factory.mktemp("apps"), need("busybox")
    with team.client() as client:
        return {tag: client.push(_app(folder, program, tag), f"team/app:{tag}") for tag in ("one", "two")}


@pytest.fixture(scope="module")
def pull_secrets(team: LiveRegistry) -> list[Json]:
    """What a pod's spec says to pull from the registry, which the nodes trust."""
    team.trust()
    team.namespace.apply(team.pull_secret())
    return [{"name": "pull"}]


class TestOperator:
    def test_it_proves_that_it_works(self, operator: Release, helm: Helm) -> None:
        """`helm test`, as its notes say: a pod that makes a Registry and sees the operator take it up."""
        assert "Phase:          Succeeded" in helm("test", RELEASE, f"--namespace={SYSTEM}", "--timeout=120s")

    def test_it_runs_as_one_pod_that_has_never_restarted(self, operator: Release, product: Product) -> None:
        (pod,) = operator.pods()
        (container,) = pod["status"]["containerStatuses"]
        assert pod["spec"]["containers"][0]["image"] == product.operator
        assert container["ready"]
        assert container["restartCount"] == 0

    def test_a_new_one_writes_nothing_where_nothing_changed(
        self, operator: Release, team: LiveRegistry, product: Product
    ) -> None:
        """Though it acts: another Registry is made and deleted meanwhile."""
        before = _versions(team)
        operator.namespace.kubectl("rollout", "restart", "deployment/regatta-operator")
        operator.namespace.kubectl("rollout", "status", "deployment/regatta-operator", "--timeout=120s")
        LiveRegistry.make(team.namespace, product, "other").delete()
        assert _versions(team) == before


class TestRegistry:
    def test_it_says_where_it_is(self, team: LiveRegistry) -> None:
        status = team.resource["status"]
        assert team.address == f"team.{team.namespace.name}.svc:5000"
        assert status["storage"]["phase"] == "Bound"
        assert status["version"] == VERSION
        shown = team.namespace.kubectl("get", "registries").splitlines()
        assert shown[1].split()[:4] == ["team", "True", team.address, "10Gi"]

    def test_a_client_outside_pushes_and_pulls(self, team: LiveRegistry) -> None:
        """By TLS with the registry's own authority, which it trusts alone."""
        with team.client() as client:
            pushed = client.push_random("team/data:1", 5 << 20)
            assert client.digest("team/data:1") == pushed.digest
            client.validate("team/data:1")

    def test_a_stranger_gets_nothing(self, team: LiveRegistry) -> None:
        with team.client(Login("admin", "guessed")) as stranger, pytest.raises(CommandFailed, match="401 Unauthorized"):
            stranger.push_random("team/data:2")

    def test_load_from_pods_fails_nowhere(self, team: LiveRegistry, product: Product) -> None:
        """What every test of a change under load builds on."""
        with load(team, product) as report, team.client() as client:
            client.push_random("team/data:3")
        assert report.failures == []
        assert report.lost == 0
        assert report.pushed > 0
        assert report.pulled >= report.pushed


class TestPods:
    """Nodes that trust the registry's authority pull from it with an imagePullSecret."""

    def test_one_runs_from_it_by_tag(
        self, team: LiveRegistry, pushed: dict[str, str], pull_secrets: list[Json]
    ) -> None:
        pod = pod_of("by-tag", f"{team.node_address}/team/app:one", imagePullSecrets=pull_secrets)
        assert team.namespace.output(pod) == "this is one\n"

    def test_one_runs_from_it_by_digest(
        self, team: LiveRegistry, pushed: dict[str, str], pull_secrets: list[Json]
    ) -> None:
        image = f"{team.node_address}/team/app@{pushed['two']}"
        assert team.namespace.output(pod_of("by-digest", image, imagePullSecrets=pull_secrets)) == "this is two\n"

    def test_one_without_a_pull_secret_does_not(
        self, team: LiveRegistry, pushed: dict[str, str], pull_secrets: list[Json]
    ) -> None:
        namespace = team.namespace
        pod = pod_of("stranger", f"{team.node_address}/team/app:one")
        pod["spec"]["containers"][0]["imagePullPolicy"] = "Always"
        namespace.apply(pod)
        reason = "{.status.containerStatuses[0].state.waiting.reason}"
        namespace.wait("pod/stranger", f"jsonpath={reason}=ErrImagePull")
        message = namespace.kubectl("get", "events", "--field-selector=involvedObject.name=stranger")
        assert "401 Unauthorized" in message or "no basic auth credentials" in message
        namespace.kubectl("delete", "pod", "stranger")


class TestSecurity:
    def test_all_of_it_runs_where_only_restricted_pods_may(self, operator: Release, team: LiveRegistry) -> None:
        for namespace in (operator.namespace, team.namespace):
            labels = namespace.get("namespace", namespace.name)["metadata"]["labels"]
            assert f"{ENFORCED[0]}" in [f"{name}={value}" for name, value in labels.items()]
            assert "violates PodSecurity" not in namespace.kubectl("get", "events")
        assert len(team.pods()) == 1


def _app(folder: Path, program: Path, tag: str) -> Path:
    """An image that says its tag."""
    return make_docker_archive(
        folder / f"{tag}.tar", [Programs({"busybox": program})], platform=f"linux/{ARCH}",
        config={"Entrypoint": ["/busybox", "echo", f"this is {tag}"]},
    )  # fmt: skip


def _versions(registry: LiveRegistry) -> dict[str, str]:
    """What changes with every write to a Registry or its children."""
    kinds = "deployments,services,secrets,configmaps,serviceaccounts,persistentvolumeclaims,pods"
    found = registry.namespace.get(kinds, f"--selector={registry.selector}")["items"]
    found.append(registry.resource)
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in found}
