"""`make demo` shows what it promises, and a second run takes up what the first has left."""

from pathlib import Path

from tests.e2e import demo
from tests.e2e.cluster import Cluster
from tests.e2e.harness.product import Release
from tests.toolchain.progress import Progress


def test_it_ends_with_a_pod_from_its_own_registry_and_the_lines_to_go_on(
    release: Release, cluster: Cluster, tmp_path: Path
) -> None:
    first = demo.show(cluster, tmp_path, Progress())
    try:
        again = demo.show(cluster, tmp_path, Progress())
        assert first.page == again.page == "Served by a pod whose image came from your own registry.\n"
        said = "\n".join(again.lines())
        assert f"export KUBECONFIG={cluster.kubeconfig}" in said
        assert "port-forward service/team 5000" in said
        assert again.registry.login.password not in said
    finally:
        cluster.kubectl("delete", "namespace", demo.NAMESPACE, "--ignore-not-found", "--timeout=180s")
