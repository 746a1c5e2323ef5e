"""`make demo` and `make demo-down`: the product on a real cluster, to look at and to go on with by hand.

    a cluster that stays ─► images ─► helm install ─► a Registry ─► an image pushed ─► a pod that runs from it

Every step may be there already from an earlier run, which is then taken up.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chart.charts import RELEASE, Helm
from tests.e2e.cluster import Cluster, ClusterError, ways
from tests.e2e.harness.namespaces import Namespace, pod_of
from tests.e2e.harness.product import SYSTEM, Product, Release, load_product
from tests.e2e.harness.registries import LiveRegistry
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import CommandFailed
from tests.toolchain import Unavailable, tool
from tests.toolchain.catalog import ARCH
from tests.toolchain.progress import Progress

NAMESPACE = "images"
_CHANGE = '{"spec":{"log":{"level":"debug"}}}'
_PAGE = "Served by a pod whose image came from your own registry.\n"


@dataclass(frozen=True)
class Demo:
    """What is there in the end."""

    cluster: Cluster
    registry: LiveRegistry
    page: str
    """What the pod answers."""

    def lines(self) -> Iterator[str]:
        """What to type next."""
        name, address = self.registry.name, self.registry.address
        yield f"The operator runs in {SYSTEM}, the registry {address} in {NAMESPACE}, and the pod web from its image."
        yield "Look at them:\n"
        if missing := [str(tool(name).parent) for name in ("kubectl", "helm") if shutil.which(name) is None]:
            yield f"  export PATH={':'.join(missing)}:$PATH"
        yield f"  export KUBECONFIG={self.cluster.kubeconfig}"
        yield "  kubectl get registries,pods --all-namespaces"
        yield f"  kubectl -n {NAMESPACE} describe registry {name}"
        yield f"  kubectl -n {SYSTEM} logs deployment/regatta-operator"
        yield "\nPush an image of your own; docker trusts localhost:\n"
        yield f"  kubectl -n {NAMESPACE} port-forward service/{name} 5000 &"
        yield f"  kubectl -n {NAMESPACE} get secret {name}-admin -o jsonpath='{{.data.password}}' | base64 -d |"
        yield "    docker login localhost:5000 --username admin --password-stdin"
        yield "  docker tag IMAGE localhost:5000/IMAGE && docker push localhost:5000/IMAGE"
        yield "\nChange it, and see the change rolled out:\n"
        yield f"  kubectl -n {NAMESPACE} patch registry {name} --type=merge -p '{_CHANGE}'"
        yield f"  kubectl -n {NAMESPACE} get registry {name} --watch"
        yield "\nEnd all of it: make demo-down"


def show(cluster: Cluster, home: Path, progress: Progress) -> Demo:
    """Brings all of it up in the cluster; `home` is a folder for Helm and for what is built on the way."""
    product = load_product(cluster, home)
    with progress.step("operator", "helm install"):
        _install(cluster, Helm(tool("helm"), cluster.kubeconfig, home), product)
    with progress.step("registry", "kubectl apply, and waiting until it is ready"):
        if cluster.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
            namespace = Namespace(cluster, NAMESPACE)
        else:
            namespace = Namespace.create(cluster, NAMESPACE)
        registry = LiveRegistry.make(namespace, product)
    with progress.step("image", "pushing it"), registry.client() as client:
        client.push(_web(home), "demo/web:1")
    with progress.step("pod", "running it from the registry"):
        page = _run(registry)
    return Demo(cluster, registry, page)


def _install(cluster: Cluster, helm: Helm, product: Product) -> None:
    release = Release(cluster, helm)
    if helm("list", "--short", f"--namespace={SYSTEM}", f"--filter=^{RELEASE}$").strip():
        release.upgrade(product)
    else:
        release.install(product)


def _web(folder: Path) -> Path:
    """An image of a web server with one page."""
    (folder / "index.html").write_text(_PAGE)
    return make_docker_archive(
        folder / "web.tar",
        [Programs({"busybox": tool("busybox"), "www/index.html": folder / "index.html"})],
        platform=f"linux/{ARCH}",
        config={"Entrypoint": ["/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]},
    )


def _run(registry: LiveRegistry) -> str:
    """Starts the pod, and returns what it answers."""
    namespace = registry.namespace
    registry.trust()
    pod = pod_of("web", f"{registry.node_address}/demo/web:1", imagePullSecrets=[{"name": "pull"}])
    namespace.kubectl("delete", "pod", "web", "--ignore-not-found")
    namespace.apply(registry.pull_secret(), pod)
    namespace.wait("pod/web", "condition=Ready")
    return namespace.kubectl("exec", "web", "--", "/busybox", "wget", "-qO-", "http://localhost:8080/")


def hide() -> str:
    """Ends what `show` has left, and says what that was."""
    if clusters := ways.kept():
        for cluster in clusters:
            cluster.down()
        return f"gone: {', '.join(cluster.name for cluster in clusters)}"
    if os.environ.get("KUBECONFIG") and os.environ.get(ways.VARIABLE) == "kubeconfig":
        cluster = ways.keep()
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
        with tempfile.TemporaryDirectory(prefix="regatta-demo-") as home:
            Release(cluster, Helm(tool("helm"), cluster.kubeconfig, Path(home))).uninstall()
        return f"the demo is gone from {cluster.name}"
    return "there is no demo"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.demo", description="Regatta on a real cluster.")
    parser.add_argument("command", choices=("up", "down"))
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "down":
            print(hide())
            return 0
        with tempfile.TemporaryDirectory(prefix="regatta-demo-") as home:
            demo = show(ways.keep(), Path(home), Progress())
    except (ClusterError, CommandFailed, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("", *demo.lines(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
