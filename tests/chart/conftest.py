"""Fixtures of the chart's tests: Helm, and namespaces of a real API server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.charts import Helm
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import CommandFailed, run
from tests.fixtures.tools import Need, unavailable
from tests.operator.kube import Kube, install_crds

_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


@pytest.fixture(scope="session")
def kube(kube_api: KubeAPI) -> Iterator[Kube]:
    """The API server with our CRDs."""
    client = Kube(kube_api)
    yield client
    client.close()


@pytest.fixture(scope="module", autouse=True)
def crds_handed_back(kube: Kube) -> Iterator[None]:
    """Takes the CRDs' fields back from Helm at last, with which other tests' applies would be in conflict."""
    yield
    install_crds(kube.api)


@pytest.fixture(scope="session")
def helm(need: Need, kube_api: KubeAPI, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, as the cluster's administrator."""
    return Helm(need("helm"), kube_api.kubeconfig, tmp_path_factory.mktemp("helm"))


@pytest.fixture
def system(kube_api: KubeAPI) -> str:
    """A namespace for the operator that takes nothing but restricted pods."""
    name = kube_api.namespace("system")
    levels = (f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
    kube_api.kubectl("label", "namespace", name, *levels)
    return name


@pytest.fixture
def namespace(kube_api: KubeAPI) -> str:
    """A namespace for Registries."""
    return kube_api.namespace("images")


@pytest.fixture(scope="session")
def monitoring(need: Need, kube_api: KubeAPI, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The API server with the Prometheus operator's own CRDs of its monitors."""
    try:
        answer = run(need("go"), "mod", "download", "-json", _PROMETHEUS_OPERATOR, cwd=tmp_path_factory.mktemp("go"))
    except CommandFailed as failure:
        unavailable(f"the CRDs of {_PROMETHEUS_OPERATOR} can't be had: {failure.stderr or failure.stdout}")
    crds = Path(json.loads(answer)["Dir"]) / "example" / "prometheus-operator-crd"
    kinds = ("podmonitors", "servicemonitors", "prometheusrules")
    files = (crds / f"monitoring.coreos.com_{kind}.yaml" for kind in kinds)
    kube_api.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
    names = (f"crd/{kind}.monitoring.coreos.com" for kind in kinds)
    kube_api.kubectl("wait", "--for=condition=Established", *names)
