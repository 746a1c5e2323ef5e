"""The life of a release on a real API server: installed, tested, upgraded, uninstalled, with Registries all along."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from registry_operator.api.kinds import DEPLOYMENT, REGISTRY, Kind
from tests.chart.charts import CHART, RELEASE, Helm, Json, one, operator_arguments
from tests.fixtures.processes import CommandFailed, run
from tests.operator.kube import Kube, operator

CRD = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
REGISTRIES = "registries.regatta.dev"


@pytest.fixture
def registry(kube: Kube, namespace: str) -> Iterator[Json]:
    """A Registry that somebody has."""
    yield kube.create(REGISTRY, namespace, "team", spec={})
    kube.delete(REGISTRY, namespace, "team")


def live(kube: Kube, registry: Json) -> Json | None:
    """The Registry as it is now."""
    return kube.get(REGISTRY, registry["metadata"]["namespace"], registry["metadata"]["name"])


def spec_of_crd(kube: Kube) -> Json:
    """The schema by which the API server takes a Registry's spec."""
    crd = kube.get(CRD, "", REGISTRIES)
    assert crd is not None
    schema: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


class TestInstalled:
    def test_it_says_what_to_type_next(self, helm: Helm, kube: Kube, system: str, namespace: str) -> None:
        """And the API server takes the manifest that it says."""
        with helm.release(system):
            notes = helm("get", "notes", RELEASE, f"--namespace={system}")
        assert f"kubectl --namespace {system} rollout status deployment/regatta-operator" in notes
        manifest = notes.partition("<<EOF\n")[2].partition("EOF")[0]
        strictly = ("--dry-run=server", "--validate=strict", "--warnings-as-errors")
        kube.api.kubectl("apply", *strictly, f"--namespace={namespace}", "--filename=-", input=manifest)

    def test_a_second_one_for_the_same_cluster_is_refused(self, helm: Helm, kube: Kube, system: str) -> None:
        """Two would work on the same Registries."""
        elsewhere = kube.api.namespace("second")
        with helm.release(system), pytest.raises(CommandFailed, match=rf"invalid ownership metadata.*{system}"):
            helm("install", RELEASE, CHART, f"--namespace={elsewhere}")

    def test_each_of_two_namespaces_may_have_its_own(self, helm: Helm, kube: Kube) -> None:
        """Of the same name."""
        one_, other = kube.api.namespace("own"), kube.api.namespace("own")
        for namespace in (one_, other):
            values = {"watch": {"namespaces": [namespace]}, "crds": {"enabled": False}, "rbac": {"userRoles": True}}
            helm("install", RELEASE, CHART, f"--namespace={namespace}", values=values)
        for namespace in (one_, other):
            helm("uninstall", RELEASE, f"--namespace={namespace}")


class TestTested:
    """`helm test`: its pod's command as its pod's ServiceAccount."""

    def test_it_passes_while_the_operator_works(
        self, helm: Helm, kube: Kube, system: str, namespace: str, tmp_path: Path
    ) -> None:
        """In a namespace that it looks after, where nothing remains."""
        with helm.release(system, {"watch": {"namespaces": [namespace]}}) as objects:
            arguments = operator_arguments(objects, system)
            with operator(kube.api.kubeconfig, tmp_path, *arguments) as process:
                process.await_running()
                said = self.check(helm, kube, system, tmp_path)
            assert said == f"ok: the operator looks after Registries in {namespace}\n"
            assert kube.children(namespace) == {}
            assert kube.all(REGISTRY, namespace) == []

    def test_it_fails_and_says_so_while_it_does_not(self, helm: Helm, kube: Kube, system: str, tmp_path: Path) -> None:
        with helm.release(system):
            with pytest.raises(CommandFailed, match=r"FAILED: the operator did not take up Registry .* within 1 s"):
                self.check(helm, kube, system, tmp_path, seconds="1")
            assert kube.all(REGISTRY, system) == []

    def check(self, helm: Helm, kube: Kube, system: str, tmp_path: Path, seconds: str | None = None) -> str:
        """Runs what the pod would, and returns what it says; raises CommandFailed."""
        hooks = helm.get("hooks", system)
        pod = one(hooks, "Pod")
        kube.api.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([each for each in hooks if each is not pod]))
        account = pod["spec"]["serviceAccountName"]
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text(kube.api.kubectl("create", "token", account, f"--namespace={system}").strip())
        shutil.copy(kube.api.ca, tmp_path / "ca.crt")
        (tmp_path / "check.py").write_text(one(hooks, "ConfigMap")["data"]["check.py"])
        server = urlsplit(kube.api.server)
        python, script, *arguments = pod["spec"]["containers"][0]["command"]
        assert (python, script) == ("python", "/check/check.py")
        if seconds:
            arguments[-1] = seconds
        environment = {
            "CREDENTIALS": str(tmp_path),
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        # With nothing but the standard library: the image may keep its packages where it likes.
        return run(sys.executable, "-I", "-S", tmp_path / "check.py", *arguments, env=environment)


class TestUpgraded:
    def test_it_changes_crds_and_leaves_registries_and_pods_alone(
        self, helm: Helm, kube: Kube, system: str, registry: Json, tmp_path: Path
    ) -> None:
        newer = shutil.copytree(CHART, tmp_path / "regatta")
        change(newer / "Chart.yaml", lambda chart: chart.update(version="99.0.0"))
        change(newer / "files" / "crds" / f"{REGISTRIES}.yaml", add_field)
        with helm.release(system):
            deployment = kube.get(DEPLOYMENT, system, "regatta-operator")
            assert "flavour" not in spec_of_crd(kube)["properties"]
            helm("upgrade", RELEASE, newer, f"--namespace={system}")
            try:
                assert "flavour" in spec_of_crd(kube)["properties"]
                assert live(kube, registry) == registry
                upgraded = kube.get(DEPLOYMENT, system, "regatta-operator")
                assert deployment is not None
                assert upgraded is not None
                assert upgraded["metadata"]["labels"]["helm.sh/chart"] == "regatta-99.0.0"
                assert upgraded["metadata"]["generation"] == deployment["metadata"]["generation"]
            finally:
                helm("rollback", RELEASE, "1", f"--namespace={system}")
            assert "flavour" not in spec_of_crd(kube)["properties"]
            assert live(kube, registry) == registry

    def test_without_crds_it_leaves_them(self, helm: Helm, kube: Kube, system: str, registry: Json) -> None:
        """Those that the release had made before."""
        with helm.release(system):
            helm("upgrade", RELEASE, CHART, f"--namespace={system}", values={"crds": {"enabled": False}})
            assert live(kube, registry) == registry


class TestUninstalled:
    def test_it_leaves_crds_and_registries_and_comes_back_to_them(
        self, helm: Helm, kube: Kube, system: str, registry: Json
    ) -> None:
        with helm.release(system) as objects:
            pass
        for each in objects:
            kept = each["kind"] == CRD.name
            where = ("--namespace", each["metadata"]["namespace"]) if "namespace" in each["metadata"] else ()
            name = f"{each['kind'].lower()}/{each['metadata']['name']}"
            found = kube.api.kubectl("get", name, *where, "--ignore-not-found", "--output=name")
            assert bool(found) is kept, name
        assert live(kube, registry) == registry
        helm("install", RELEASE, CHART, f"--namespace={system}")
        helm("uninstall", RELEASE, f"--namespace={system}")
        assert live(kube, registry) == registry

    def test_it_takes_them_along_only_where_told(self, helm: Helm) -> None:
        """With the CRDs all Registries go, so Helm must be told in advance, in a value of its own."""
        kept, gone = (one(helm.template({"crds": {"keep": keep}}), CRD.name, REGISTRIES) for keep in (True, False))
        assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert "annotations" not in gone["metadata"]


def change(file: Path, how: Callable[[Json], None]) -> None:
    """Edits a YAML file."""
    document = yaml.safe_load(file.read_text())
    how(document)
    file.write_text(yaml.safe_dump(document))


def add_field(crd: Json) -> None:
    """What a later version may bring."""
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["flavour"] = {"type": "string"}
