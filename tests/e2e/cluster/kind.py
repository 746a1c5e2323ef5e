"""The cluster that kind runs in a Docker container, where Docker has or can pull an image for its node.

Which image follows from the version of kind, unless REGATTA_KIND_IMAGE names another. Everything here is one of kind's
own commands, or one that runs in the node's container.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.e2e.cluster.contract import Cluster, ClusterError
from tests.e2e.cluster.cut import cut_off
from tests.fixtures.images import name_in
from tests.fixtures.processes import CommandFailed, run
from tests.toolchain import Unavailable, tool
from tests.toolchain.obtain import cache_dir

IMAGE = "REGATTA_KIND_IMAGE"
"""Names an image for the node that is in the Docker engine already, or that it can pull."""

_START_TIMEOUT = 600
"""Seconds for all of a start: the pull of an image of about 400 MB, and two minutes until the node is ready."""

_SETTLE_TIMEOUT = 120
"""Seconds that the kubelet or the API server may take to end, or to be ready again."""

_MANIFESTS = "/etc/kubernetes/manifests"
_STOPPED = "/kind"
"""On the node: where the kubelet looks for what it runs, and where the manifests of what was stopped are."""

_CERTIFICATES = "/etc/containerd/certs.d"

# containerd takes the certificates from there by default, but not in every version of the node.
_CONFIG = f"""\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
containerdConfigPatches:
- |-
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{_CERTIFICATES}"
"""

# $1 is the folder, $2 its hosts.toml; the certificate comes by stdin.
_TRUST = 'mkdir -p "$1" && cat > "$1/ca.crt" && printf %s "$2" > "$1/hosts.toml"'

# $1 is the address, $2 the name. The file is a mount, which can be written but not replaced.
_NAME = '{ echo "$1 $2"; grep -v " $2$" /etc/hosts; } > /run/hosts; cat /run/hosts > /etc/hosts'


class KindCluster(Cluster):
    """A cluster of one node. Get one by `start`."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = f"kind's cluster {name}"
        self.kubeconfig = state / "kubeconfig"
        self._cluster = name
        self._node = f"{name}-control-plane"
        self._state = state

    # --- Life ---

    @classmethod
    def start(cls) -> Self:
        """Starts a cluster that is ready for pods.

        Raises `Unavailable` without Docker or an image for the node, and `ClusterError` if it does not start. Unlike
        the local cluster it is left behind by `kill -9`: `kind get clusters`, `kind delete cluster`.
        """
        _check_docker()
        cluster = cls(f"regatta-{secrets.token_hex(3)}", Path(tempfile.mkdtemp(prefix="regatta-kind-")))
        cluster._create()
        return cluster

    @classmethod
    def keep(cls, name: str) -> Self:
        """The cluster of that name, started if need be; it outlives this process. Raises as `start` does."""
        _check_docker()
        if cluster := cls.find(name):
            return cluster
        cluster = cls(name, _kept(name))
        cluster._create()
        return cluster

    @classmethod
    def find(cls, name: str) -> Self | None:
        """The cluster of that name if `keep` has left it."""
        return cls(name, _kept(name)) if (_kept(name) / "kubeconfig").exists() else None

    def down(self) -> None:
        """Removes the node's container with all that it had."""
        self._kind("delete", "cluster", f"--kubeconfig={self.kubeconfig}")
        shutil.rmtree(self._state)

    # --- Use ---

    @property
    def enforces_policies(self) -> bool:
        """kindnet does; the network of a node's image made on the spot is a bridge alone."""
        return bool(self.kubectl("get", "daemonset/kindnet", "-n=kube-system", "--ignore-not-found", "-o=name"))

    def load_images(self, *archives: Path) -> list[str]:
        """Imports images into the node's containerd; see `Cluster`."""
        for archive in archives:
            self._kind("load", "image-archive", str(archive))
        return [name_in(archive) for archive in archives]

    def trust_registry(self, host: str, ca: bytes, *, at: str | None = None) -> None:
        """Writes containerd's certs.d, and for a Service the node's /etc/hosts; see `Cluster`."""
        if at is None:
            name = host.partition(":")[0]
            service, namespace, *_ = name.split(".")
            self.in_node("sh", "-c", _NAME, "sh", self._service(namespace, service)["clusterIP"], name)
        folder, upstream = f"{_CERTIFICATES}/{host}", at or f"https://{host}"
        hosts = f'server = "{upstream}"\n\n[host."{upstream}"]\nca = "{folder}/ca.crt"\n'
        self.in_node("sh", "-c", _TRUST, "sh", folder, hosts, input=ca)

    @contextmanager
    def reach(self, namespace: str, service: str, port: int) -> Iterator[tuple[str, int]]:
        """By the node's address and a NodePort, of a second Service, where containers have addresses: on Linux."""
        if sys.platform != "linux":
            with super().reach(namespace, service, port) as reached:
                yield reached
            return
        name = f"reach-{secrets.token_hex(3)}"
        spec = self._service(namespace, service)
        ports = [{"port": port, "targetPort": one["targetPort"]} for one in spec["ports"] if one["port"] == port]
        beside = {"type": "NodePort", "selector": spec["selector"], "ports": ports}
        manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": beside}
        self.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(manifest))
        try:
            address = self.kubectl("get", "nodes", '-o=jsonpath={..addresses[?(@.type=="InternalIP")].address}')
            node_port = self._service(namespace, name)["ports"][0]["nodePort"]
            _await(lambda: _accepts(address, node_port), f"{address}:{node_port} did not accept connections")
            yield address, node_port
        finally:
            self.kubectl("delete", "service", name, "-n", namespace)

    def in_node(self, *command: str, input: str | bytes | None = None) -> str:  # noqa: A002, as in `run`
        """Runs a command on the node and returns its stdout."""
        return run("docker", "exec", "--interactive", self._node, *command, input=input)

    # --- Faults ---

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        """`kill -9` of a pod's container, by default its first; the kubelet then restarts it."""
        query = "{.status.containerStatuses[" + (f'?(@.name=="{container}")' if container else "0") + "].containerID}"
        found = self.kubectl("get", "pod", pod, "-n", namespace, f"-o=jsonpath={query}")
        kill = ("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", found.removeprefix("containerd://"))
        self.in_node(*kill)

    def stop(self, component: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the kubelet, or a part of the control plane while the kubelet runs; see `Cluster`."""
        if component == "kubelet":
            self.in_node("systemctl", "kill", f"--signal={how.name}", component)
            self.in_node("systemctl", "stop", component)
            return
        self.in_node("mv", f"{_MANIFESTS}/{component}.yaml", _STOPPED)
        with suppress(CommandFailed):  # the kubelet, which sees that its manifest is gone, can be faster
            self.in_node("pkill", f"--signal={how.name}", "--full", f"^{component} ")
        pods = ("crictl", "pods", "--quiet", "--state=ready", f"--label=component={component}")
        _await(lambda: not self.in_node(*pods), f"{component} did not stop")

    def resume(self, component: str) -> None:
        """Starts what `stop` has ended; see `Cluster`."""
        if component == "kubelet":
            self.in_node("systemctl", "start", component)
        else:
            self.in_node("mv", f"{_STOPPED}/{component}.yaml", _MANIFESTS)

    def await_api(self) -> None:
        """Waits until the API server is ready, as after a restart."""
        _await(self._ready, "the API server was not ready")

    def cut_off(self, namespace: str, *pods: str) -> AbstractContextManager[None]:
        """Drops it on the node; see `Cluster`."""
        return cut_off(self, self.in_node, namespace, pods, iptables="iptables")

    # --- End ---

    def collect_logs(self, folder: Path) -> None:
        """All that `kind export logs` finds on the node, and the logs of pods; see `Cluster`."""
        self._kind("export", "logs", str(folder / "node"))
        super().collect_logs(folder)

    # --- Means ---

    def _create(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        image = [f"--image={os.environ[IMAGE]}"] if os.environ.get(IMAGE) else []
        try:
            self._kind(
                "create", "cluster", "--config=-", "--wait=2m", f"--kubeconfig={self.kubeconfig}", *image,
                input=_CONFIG,
            )  # fmt: skip
            self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=120s")
            dns = ("deployment/coredns", "--namespace=kube-system")
            self.kubectl("wait", "--for=condition=Available", *dns, "--timeout=120s")
        except CommandFailed as failure:
            self.down()
            if "failed to pull image" in failure.stderr:
                raise Unavailable("a cluster by kind", [failure.stderr.strip().splitlines()[-1]]) from failure
            raise ClusterError(f"{self.name} did not start: {failure}") from failure
        except BaseException:
            self.down()
            raise

    def _kind(self, *args: str, input: str | None = None) -> str:  # noqa: A002, as in `run`
        return run(tool("kind"), *args, f"--name={self._cluster}", input=input, timeout=_START_TIMEOUT)

    def _service(self, namespace: str, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.kubectl("get", "service", name, "-n", namespace, "-o=json"))["spec"]
        return spec

    def _ready(self) -> bool:
        with suppress(CommandFailed):
            self.kubectl("get", "--raw=/readyz", "--request-timeout=5s")
            return True
        return False


def _kept(name: str) -> Path:
    return cache_dir() / "clusters" / name


def _check_docker() -> None:
    if not shutil.which("docker"):
        raise Unavailable("a cluster by kind", ["docker is not on PATH"])
    try:
        run("docker", "version")
    except CommandFailed as failure:
        raise Unavailable("a cluster by kind", [failure.stderr.strip().splitlines()[-1]]) from failure


def _accepts(host: str, port: int) -> bool:
    with suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False


def _await(done: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _SETTLE_TIMEOUT
    while not done():
        if time.monotonic() > deadline:
            raise ClusterError(f"{complaint} after {_SETTLE_TIMEOUT} s")
        time.sleep(0.2)
