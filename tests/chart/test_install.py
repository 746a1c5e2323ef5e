"""`manifests/install`, for those who install without Helm."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from registry_operator.api.kinds import DEPLOYMENT, SERVICE_ACCOUNT
from tests.chart.charts import ROOT, Helm, Json, documents, kinds, one
from tests.operator.kube import Kube

INSTALL = ROOT / "manifests" / "install"
NAMESPACE = "regatta-system"


@pytest.fixture
def applied(kube: Kube) -> Iterator[None]:
    """The operator, applied as the manual says."""
    kube.api.kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={INSTALL}")
    yield
    # All but the CRDs, which other tests use, and the namespace, which would stay Terminating.
    named = "deployments,serviceaccounts,networkpolicies,roles,rolebindings"
    kube.api.kubectl("delete", named, f"--namespace={NAMESPACE}", "--all")
    kube.api.kubectl("delete", "clusterroles,clusterrolebindings", "--selector=app.kubernetes.io/part-of=regatta")


def test_it_is_applied_without_a_warning(applied: None, kube: Kube) -> None:
    """The namespace enforces restricted pods."""
    assert kube.get(DEPLOYMENT, NAMESPACE, "regatta-operator")
    assert kube.get(SERVICE_ACCOUNT, NAMESPACE, "regatta-operator")
    strictly = ("--dry-run=server", "--validate=strict", "--warnings-as-errors", "--server-side", "--force-conflicts")
    kube.api.kubectl("apply", *strictly, f"--filename={INSTALL / 'install.yaml'}")


def test_it_makes_what_the_chart_makes(helm: Helm) -> None:
    """But for Helm's own marks, and with a namespace."""
    objects = documents((INSTALL / "install.yaml").read_text())
    chart = [each for each in helm.template(namespace=NAMESPACE) if not is_hook(each)]
    assert kinds(objects) - kinds(chart) == {"Namespace"}
    for each in chart:
        ours = one(objects, each["kind"], each["metadata"]["name"])
        assert {**ours, "metadata": None} == {**each, "metadata": None}
    assert "helm" not in yaml.safe_dump([each["metadata"] for each in objects]).lower()


def test_a_kustomization_may_change_namespace_image_and_replicas(kube: Kube, tmp_path: Path) -> None:
    """As the one here shows; all that refers to them follows."""
    base = tmp_path / "install"
    base.mkdir()
    for name in ("install.yaml", "kustomization.yaml"):
        (base / name).write_bytes((INSTALL / name).read_bytes())
    shown = [line.removeprefix("#   ") for line in (base / "kustomization.yaml").read_text().splitlines()]
    own = tmp_path / "own"
    own.mkdir()
    lines = [line for line in shown if line.startswith(("namespace:", "images:", "replicas:"))]
    assert len(lines) == 3
    (own / "kustomization.yaml").write_text("\n".join(["resources: [../install]", *lines]))
    objects = documents(kube.api.kubectl("kustomize", str(own)))
    assert one(objects, "Namespace")["metadata"]["name"] == "registries"
    deployment = one(objects, "Deployment")
    assert deployment["metadata"]["namespace"] == "registries"
    assert deployment["spec"]["replicas"] == 2
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.startswith("mirror.example/registry-operator:")
    assert one(objects, "ClusterRoleBinding")["subjects"][0]["namespace"] == "registries"
    assert NAMESPACE not in yaml.safe_dump_all(objects)


def is_hook(manifest: Json) -> bool:
    """Whether Helm makes it only for its test."""
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})
