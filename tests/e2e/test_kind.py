"""What the scenarios, which are the same for every cluster, take for granted of kind's; where the tests run in one."""

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, KindCluster
from tests.e2e.harness.namespaces import RESTRICTED, Namespace
from tests.fixtures.processes import CommandFailed


@pytest.fixture(scope="module")
def kind(cluster: Cluster) -> KindCluster:
    """The one of the run, where that is kind's."""
    if not isinstance(cluster, KindCluster):
        pytest.skip(f"the tests run in {cluster.name}, not in kind's")
    return cluster


@pytest.fixture(scope="module")
def web(kind: KindCluster, new_namespace: Callable[[str], Namespace], busybox_image: str) -> Namespace:
    """A namespace with a web server `web` from an image that was loaded, on a volume, and its Service."""
    namespace = new_namespace("web")
    container = {
        "name": "web",
        "image": busybox_image,
        "command": ["sh", "-c", "echo ahoy > /data/index.html; exec httpd -f -p 8080 -h /data"],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1},
    }
    pod = {
        "containers": [container],
        "securityContext": {"fsGroup": 1000},
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod}
    deployment = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    namespace.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service},
    )
    namespace.wait("deployment/web", "condition=Available")
    return namespace


def test_a_service_is_reached_from_this_machine_as_long_as_asked(kind: KindCluster, web: Namespace) -> None:
    """Also while its pod is replaced, which a forwarded port would not survive; nothing is left behind."""
    with kind.reach(web.name, "web", 80) as (host, port):
        assert _fetch(host, port) == "ahoy\n"
        web.kubectl("delete", "pod", "--selector=app=web")
        web.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
        assert _fetch(host, port) == "ahoy\n"
    assert [service["metadata"]["name"] for service in web.get("services")["items"]] == ["web"]


def test_a_killed_container_is_started_again(kind: KindCluster, web: Namespace) -> None:
    pod = web.pods("app=web")[0]["metadata"]["name"]
    kind.kill_container(web.name, pod)
    web.wait(f"pod/{pod}", "jsonpath={.status.containerStatuses[0].restartCount}=1")
    web.wait(f"pod/{pod}", "condition=Ready")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_pods_outlive_the_kubelet_and_the_api_server(kind: KindCluster, web: Namespace, how: signal.Signals) -> None:
    before = _containers(web)
    with kind.reach(web.name, "web", 80) as (host, port):
        kind.stop("kube-apiserver", how)
        with pytest.raises(CommandFailed, match=r"refused|EOF|reset"):
            web.kubectl("get", "pods")
        kind.restart("kubelet", how)
        assert _fetch(host, port) == "ahoy\n"
        kind.resume("kube-apiserver")
        kind.await_api()
    web.wait("deployment/web", "condition=Available")
    assert _containers(web) == before


def test_logs_are_collected(kind: KindCluster, web: Namespace, tmp_path: Path) -> None:
    kind.collect(tmp_path)
    assert list((tmp_path / "node").glob("*/kubelet.log"))
    assert list((tmp_path / "pods").glob(f"{web.name}_web-*"))
    assert "Scheduled" in (tmp_path / "events.txt").read_text()


def _containers(web: Namespace) -> str:
    statuses = [pod["status"]["containerStatuses"][0] for pod in web.pods("app=web")]
    return json.dumps([(status["containerID"], status["restartCount"]) for status in statuses])


def _fetch(host: str, port: int) -> str:
    """Asks again for a while: kube-proxy is a moment behind a pod's readiness, and sends to one that is gone."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/index.html", timeout=5) as response:
                content: bytes = response.read()
                return content.decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
