"""Each manifest of `manifests/samples` works as it stands, once there is what its comments ask for."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chart.charts import ROOT
from tests.e2e.cluster import Cluster
from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry
from tests.server.pki import Authority

SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
ZONE = "topology.kubernetes.io/zone"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_its_registries_become_ready(
    sample: Path,
    operator: Release,
    product: Product,
    cluster: Cluster,
    new_namespace: Callable[[str], Namespace],
    tmp_path: Path,
) -> None:
    namespace = new_namespace("sample")
    _prepare(sample.stem, namespace, product, tmp_path)
    objects = [each for each in yaml.safe_load_all(sample.read_text()) if each]
    registries = [each for each in objects if each["kind"] == "Registry"]
    for registry in registries:
        registry["spec"] = product.spec | registry["spec"]
    namespace.apply(*objects)
    for registry in registries:
        live = LiveRegistry(namespace, registry["metadata"]["name"])
        live.await_ready()
        assert len(live.pods()) == registry["spec"].get("replicas", 1)
        namespace.kubectl("delete", "registry", live.name, "--wait=false")


def _prepare(sample: str, namespace: Namespace, product: Product, folder: Path) -> None:
    """Makes what the sample's comments ask for."""
    match sample:
        case "existing-claim":
            claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            namespace.apply(_object("PersistentVolumeClaim", "old-registry-data", claim))
        case "bootstrap":
            _back_up(namespace, product)
        case "tls-secret":
            Authority(folder).issue()
            files = f"--cert={folder / 'server.crt'}", f"--key={folder / 'server.key'}"
            namespace.kubectl("create", "secret", "tls", "registry-certificate", *files)
        case "replicas":
            # They are spread over zones: a cluster of one node has one, and does not say so.
            nodes = namespace.get("nodes", f"--selector=!{ZONE}")["items"]
            for node in nodes:
                namespace.kubectl("label", "node", node["metadata"]["name"], f"{ZONE}=tests")


def _back_up(namespace: Namespace, product: Product) -> None:
    """Applies the sample of a backup, and leaves its claim behind with what is asked for at once."""
    registry, claim = yaml.safe_load_all((ROOT / "manifests/samples/backup.yaml").read_text())
    registry["spec"] = product.spec | registry["spec"]
    namespace.apply(claim, registry)
    archived = LiveRegistry(namespace, registry["metadata"]["name"])
    archived.await_ready()
    archived.await_log("backup: run ")
    archived.delete()


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
