"""The local cluster is a real one: what the other end-to-end tests take for granted, shown once."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.e2e.cluster import Cluster, ClusterError, LocalCluster
from tests.e2e.cluster.layout import State
from tests.e2e.cluster.node import SYSCTLS
from tests.e2e.harness.namespaces import RESTRICTED, Namespace, pod_of
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import CommandFailed, run, server
from tests.fixtures.tools import Need
from tests.toolchain.catalog import ARCH


@pytest.fixture(scope="module")
def cluster(cluster: Cluster) -> LocalCluster:
    """The one of the run, where that is a local one."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip(f"the tests run in {cluster.name}, not in a local cluster")
    return cluster


@pytest.fixture(scope="module")
def web(cluster: LocalCluster, new_namespace: Callable[[str], Namespace], busybox_image: str) -> Namespace:
    """A namespace with a Deployment `web` of two web servers on one volume, behind a Service, and a pod `client`."""
    namespace = new_namespace("web")
    script = "echo started; test -e /data/index.html || hostname > /data/index.html; exec httpd -f -p 8080 -h /data"
    container = {
        "name": "web",
        "image": busybox_image,
        "command": ["sh", "-c", script],
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
    deployment = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
    }
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "64Mi"}}}
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    namespace.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service},
        pod_of("client", busybox_image, "sleep", "100000"),
    )
    namespace.kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout=60s")
    namespace.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=60s")
    cluster.await_port(namespace.get("service", "web")["spec"]["clusterIP"], 80)
    return namespace


class TestPods:
    def test_a_deployment_writes_to_its_volume_and_is_reached_by_its_service_name(self, web: Namespace) -> None:
        """Two pods share the volume as user 1000 by its fsGroup."""
        answers = {web.kubectl("exec", "client", "--", "wget", "-qO-", "http://web") for _ in range(8)}
        assert len(answers) == 1
        assert answers.pop().startswith("web-")

    def test_the_host_reaches_a_cluster_ip(self, web: Namespace) -> None:
        address = web.get("service", "web")["spec"]["clusterIP"]
        with urllib.request.urlopen(f"http://{address}/index.html", timeout=10) as response:
            assert response.read().startswith(b"web-")

    def test_a_pod_reaches_the_host(self, web: Namespace, cluster: LocalCluster, tmp_path: Path) -> None:
        """As a webhook that runs out of the cluster needs it."""
        (tmp_path / "ahoy").write_text("from the host")
        serve = ("-m", "http.server", "--bind", cluster.network.host, "--directory", tmp_path, "8099")
        with server(sys.executable, *serve, log=tmp_path / "log") as running:
            running.await_port(cluster.network.host, 8099)
            url = f"http://{cluster.network.host}:8099/ahoy"
            assert web.kubectl("exec", "client", "--", "wget", "-qO-", url) == "from the host"

    def test_names_outside_the_cluster_do_not_exist(self, web: Namespace) -> None:
        with pytest.raises(CommandFailed) as failed:
            web.kubectl("exec", "client", "--", "nslookup", "example.com")
        assert "NXDOMAIN" in failed.value.stdout

    def test_logs_are_read(self, web: Namespace) -> None:
        assert web.kubectl("logs", "deployment/web") == "started\n"

    def test_a_port_is_forwarded(self, web: Namespace, cluster: LocalCluster) -> None:
        command = cluster.kubectl_command("-n", web.name, "port-forward", "service/web", ":80")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
            try:
                assert forwarding.stdout is not None
                said = forwarding.stdout.readline()
                port = re.search(r"127\.0\.0\.1:(\d+)", said)
                assert port, said
                with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/index.html", timeout=10) as response:
                    assert response.read().startswith(b"web-")
            finally:
                forwarding.terminate()

    def test_an_image_from_nowhere_fails_soon(self, web: Namespace) -> None:
        web.apply(pod_of("nowhere", "example.com/app:1"))
        reason = "{.status.containerStatuses[0].state.waiting.reason}=ErrImagePull"
        web.kubectl("wait", "pod/nowhere", f"--for=jsonpath={reason}", "--timeout=30s")
        web.kubectl("delete", "pod", "nowhere")


class TestControllers:
    def test_a_cron_job_runs(self, web: Namespace, busybox_image: str) -> None:
        pod = pod_of("x", busybox_image, "echo", "ahoy")["spec"]
        job = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}
        web.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": job})
        web.kubectl("wait", "cronjob/tick", "--for=jsonpath={.status.lastSuccessfulTime}", "--timeout=100s")
        name = web.get("jobs")["items"][0]["metadata"]["name"]
        assert web.kubectl("logs", f"job/{name}") == "ahoy\n"
        web.kubectl("delete", "cronjob", "tick")

    def test_an_owner_takes_its_children_along(self, web: Namespace) -> None:
        web.kubectl("create", "configmap", "owner")
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner"}
        reference["uid"] = web.get("configmap", "owner")["metadata"]["uid"]
        metadata = {"name": "child", "ownerReferences": [reference]}
        web.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        web.kubectl("delete", "configmap", "owner")
        web.kubectl("wait", "configmap/child", "--for=delete", "--timeout=30s")

    def test_pod_security_is_enforced(self, web: Namespace, busybox_image: str) -> None:
        pod = pod_of("root", busybox_image)
        pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
        with pytest.raises(CommandFailed, match='violates PodSecurity "restricted'):
            web.apply(pod)


class TestVolumes:
    def test_a_claim_grows(self, web: Namespace) -> None:
        web.kubectl("patch", "pvc", "data", "-p", '{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}')
        web.kubectl("wait", "pvc/data", "--for=jsonpath={.status.capacity.storage}=128Mi", "--timeout=30s")

    def test_a_volume_goes_with_its_claim(
        self, new_namespace: Callable[[str], Namespace], busybox_image: str, cluster: LocalCluster
    ) -> None:
        namespace = new_namespace("volume")
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        volume = {"name": "v", "persistentVolumeClaim": {"claimName": "v"}}
        namespace.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "v"}, "spec": claim},
            pod_of("user", busybox_image, "true", volumes=[volume]),
        )
        namespace.kubectl("wait", "pod/user", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        name = namespace.get("pvc", "v")["spec"]["volumeName"]
        assert (cluster.state.volumes / name).is_dir()
        namespace.kubectl("delete", "pod/user", "pvc/v")
        namespace.kubectl("wait", f"pv/{name}", "--for=delete", "--timeout=30s")
        assert not (cluster.state.volumes / name).exists()


class TestRegistry:
    def test_a_pod_runs_from_a_registry_in_the_cluster_that_has_its_own_ca(
        self,
        new_namespace: Callable[[str], Namespace],
        busybox_image: str,
        cluster: LocalCluster,
        distribution: Path,
        crane: Path,
        need: Need,
        tmp_path: Path,
    ) -> None:
        """By the name of its Service and by one that the node knows alone; refused while the CA is not trusted."""
        namespace = new_namespace("registry")
        host = f"registry.{namespace.name}.svc.cluster.local:5000"
        service = {"selector": {"app": "registry"}, "ports": [{"port": 5000}]}
        namespace.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "registry"}, "spec": service})
        address = namespace.get("service", "registry")["spec"]["clusterIP"]
        certificate = self._serve(namespace, cluster, distribution, [host.removesuffix(":5000"), address], tmp_path)
        archive = make_docker_archive(
            tmp_path / "app.tar", [Programs({"busybox": need("busybox")})], platform=f"linux/{ARCH}",
            config={"Entrypoint": ["/busybox", "echo", "pulled"]},
        )  # fmt: skip
        cluster.await_port(address, 5000)
        run(crane, "push", archive, f"{address}:5000/app:1", env={"SSL_CERT_FILE": str(certificate)})
        namespace.apply(pod_of("app", f"{host}/app:1"))
        failed = "{.status.containerStatuses[0].state.waiting.message}"
        namespace.kubectl("wait", "pod/app", f"--for=jsonpath={failed}", "--timeout=30s")
        assert "certificate signed by unknown authority" in namespace.kubectl("get", "events")
        namespace.kubectl("delete", "pod", "app")
        cluster.trust_registry(host, certificate.read_bytes())
        cluster.trust_registry("images.example", certificate.read_bytes(), at=f"https://{address}:5000")
        for registry in (host, "images.example"):
            namespace.apply(pod_of("app", f"{registry}/app:1"))
            namespace.kubectl("wait", "pod/app", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
            assert namespace.kubectl("logs", "app") == "pulled\n"
            namespace.kubectl("delete", "pod", "app")

    def _serve(
        self, namespace: Namespace, cluster: LocalCluster, distribution: Path, names: list[str], folder: Path
    ) -> Path:
        """Runs distribution with a certificate for the names, and returns that."""
        certificate, key = _self_signed(names, folder)
        namespace.kubectl("create", "secret", "tls", "tls", f"--cert={certificate}", f"--key={key}")
        config = {
            "version": 0.1,
            "storage": {"inmemory": {}},
            "http": {"addr": ":5000", "tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"}},
        }
        namespace.kubectl("create", "configmap", "config", f"--from-literal=config.yml={json.dumps(config)}")
        archive = make_docker_archive(
            folder / "registry.tar", [Programs({"registry": distribution})], name="kube.local/registry:1",
            platform=f"linux/{ARCH}", config={"Entrypoint": ["/registry", "serve", "/config/config.yml"]},
        )  # fmt: skip
        cluster.load_images(archive)
        volumes = [
            {"name": "tls", "secret": {"secretName": "tls"}},
            {"name": "config", "configMap": {"name": "config"}},
        ]
        pod = pod_of("registry", "kube.local/registry:1", volumes=volumes)
        pod["metadata"]["labels"] = {"app": "registry"}
        pod["spec"]["containers"][0] |= {
            "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("tls", "config")],
            "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1},
        }
        namespace.apply(pod)
        namespace.kubectl("wait", "pod/registry", "--for=condition=Ready", "--timeout=60s")
        return certificate


class TestFailures:
    def test_pods_outlive_a_restart_of_the_kubelet_and_of_the_api_server(
        self, web: Namespace, cluster: LocalCluster
    ) -> None:
        address = web.get("service", "web")["spec"]["clusterIP"]
        before, starts = self._containers(web), self._starts(cluster)
        cluster.stop("kube-apiserver", signal.SIGKILL)
        cluster.restart("kubelet", signal.SIGKILL)
        with pytest.raises(CommandFailed, match="refused"):
            web.kubectl("get", "pods")
        with urllib.request.urlopen(f"http://{address}/index.html", timeout=10) as response:
            assert response.status == 200
        cluster.resume("kube-apiserver")
        cluster.await_api()
        web.kubectl("create", "configmap", "still-works")
        web.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        assert self._containers(web) == before
        assert self._starts(cluster) == starts + 1

    def test_a_killed_container_is_started_again(self, web: Namespace, cluster: LocalCluster) -> None:
        pod = web.get("pods", "-l=app=web")["items"][0]["metadata"]["name"]
        cluster.kill_container(web.name, pod)
        restarts = "{.status.containerStatuses[0].restartCount}=1"
        web.kubectl("wait", f"pod/{pod}", f"--for=jsonpath={restarts}", "--timeout=60s")
        web.kubectl("wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=60s")

    def test_logs_events_and_descriptions_are_collected(
        self, web: Namespace, cluster: LocalCluster, tmp_path: Path
    ) -> None:
        cluster.collect(tmp_path)
        assert "started" in "".join(
            path.read_text() for path in (tmp_path / "pods").glob(f"{web.name}_web-*/web/*.log")
        )
        assert "Scheduled" in (tmp_path / "events.txt").read_text()
        assert "web-" in (tmp_path / "describe.txt").read_text()
        assert (tmp_path / "components" / "kubelet.log").stat().st_size > 0

    def _starts(self, cluster: LocalCluster) -> int:
        return cluster.components()["kubelet"]["starts"] or 0

    def _containers(self, web: Namespace) -> dict[str, tuple[str, int]]:
        found = {}
        for pod in web.get("pods")["items"]:
            status = pod["status"]["containerStatuses"][0]
            found[pod["metadata"]["name"]] = status["containerID"], status["restartCount"]
        return found


class TestLife:
    def test_clusters_run_side_by_side_and_leave_nothing(self, cluster: LocalCluster) -> None:
        machine = _machine()
        with LocalCluster.up() as second:
            assert second.number != cluster.number
            assert second.in_node("hostname").strip() == second.network.node_name
            assert second.network.node_name in second.kubectl("get", "nodes")
            assert second.network.node_name not in cluster.kubectl("get", "nodes")
            processes = _processes(second)
            assert len(processes) > 8
            assert len(_traces(second.number)) > 6
        assert _running(processes) == []
        assert _traces(second.number) == []
        assert _machine() == machine

    def test_a_cluster_ends_with_the_run_that_started_it_even_by_kill_9(self) -> None:
        """What is left of it then goes when its number is used again."""
        number = 254
        script = f"""
            import sys
            from tests.e2e.cluster import LocalCluster
            with LocalCluster.up({number}):
                print("up", flush=True)
                sys.stdin.read()
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "up\n"
            processes = _processes(LocalCluster.attach(number))
            starter.kill()
        _await_ended(processes)
        with pytest.raises(ClusterError, match="does not run"):
            LocalCluster.attach(number)
        LocalCluster(number).down()
        assert _traces(number) == []


def _processes(cluster: LocalCluster) -> list[int]:
    """A handle (pidfd) of each process in the cluster's network namespace, the containers' own aside."""
    namespace = cluster.in_node("readlink", "/proc/self/ns/net").strip()
    assert namespace != _link(Path("/proc/self/ns/net"))
    pids = [int(path.parts[2]) for path in Path("/proc").glob("[0-9]*/ns/net") if _link(path) == namespace]
    return [os.pidfd_open(pid) for pid in pids]


def _running(processes: list[int]) -> list[int]:
    """Those that have not ended; closes the handles of the others."""
    ended = select.select(processes, [], [], 0)[0]
    for process in ended:
        os.close(process)
    return [process for process in processes if process not in ended]


def _await_ended(processes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while processes := _running(processes):
        assert select.select(processes, [], [], deadline - time.monotonic())[0]


def _traces(number: int) -> list[str]:
    """What the machine has of a cluster, processes aside: link, routes, rules, mounts, control groups, state."""
    addresses = rf"^.*\b10\.12[345]\.{number}\..*$"
    found = [
        *Path("/sys/class/net").glob(f"regatta{number}"),
        *re.findall(addresses, run("ip", "route"), re.MULTILINE),
        *re.findall(addresses, run("iptables-save"), re.MULTILINE),
        *re.findall(rf"^.*/clusters/{number}/.*$", Path("/proc/mounts").read_text(), re.MULTILINE),
        *Path("/sys/fs/cgroup").glob(f"**/regatta-cluster-{number}"),
        *State.of(number).root.parent.glob(str(number)),
    ]
    return [str(trace) for trace in found]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # the process has ended
        return ""


def _machine() -> dict[str, Any]:
    """What belongs to the whole machine and Kubernetes would change."""
    folders = ("/opt/containerd", "/usr/libexec/kubernetes", "/var/lib/kubelet")
    return {
        "sysctls": [Path("/proc/sys", name).read_text() for name in SYSCTLS],
        "folders": [folder for folder in folders if Path(folder).exists()],
    }


def _self_signed(names: list[str], folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = [x509.DNSName(names[0]), *(x509.IPAddress(ip_address(name)) for name in names[1:])]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths
