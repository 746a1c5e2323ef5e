"""Brings a cluster up, hands it to tests, and takes it down: the host's side.

Everything of a cluster is in one process tree with its own namespaces, one state folder, its control groups and one
network link. The kernel takes what is in the namespaces; `down` removes the rest, and only that. What a cluster left
whose starter was killed is removed when its number is used next.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from string import Template
from typing import Any, Self

from tests.e2e.cluster import components
from tests.e2e.cluster.contract import Cluster, ClusterError
from tests.e2e.cluster.cut import cut_off
from tests.e2e.cluster.layout import INSIDE, NUMBERS, Network, State
from tests.e2e.cluster.pki import write_kubeconfig, write_pki
from tests.fixtures.images import Programs, make_docker_archive, name_in
from tests.fixtures.processes import CommandFailed, run
from tests.toolchain import Unavailable, tool
from tests.toolchain.catalog import ARCH, COREDNS
from tests.toolchain.obtain import cache_dir
from tests.toolchain.progress import Progress

_ROOT = Path(__file__).parents[3]
_MANIFESTS = Path(__file__).parent / "manifests"
_CGROUPS = Path("/sys/fs/cgroup")
_START_TIMEOUT = 120
_STOP_TIMEOUT = 60
_SOCKET_PATH_LIMIT = 107
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COREDNS_IMAGE = f"kube.local/coredns:{COREDNS}"


class LocalCluster(Cluster):
    """A running cluster. Get one by `up`, `start` or `attach`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"cluster {number}"
        self.network = Network(number)
        self.state = State.of(number)
        self.kubeconfig = self.state.kubeconfig
        self.server = self.network.server
        self._starter: subprocess.Popen[bytes] | None = None

    # --- Life ---

    @classmethod
    @contextmanager
    def up(cls, number: int | None = None, progress: Progress | None = None) -> Iterator[Self]:
        """A cluster while the block runs; it ends with this process, too, even by `kill -9`."""
        cluster = cls.start(number, stay=False, progress=progress)
        try:
            yield cluster
        finally:
            cluster.down()

    @classmethod
    def start(cls, number: int | None = None, *, stay: bool = True, progress: Progress | None = None) -> Self:
        """Starts a cluster that is ready for pods; with `stay` it outlives this process.

        Without a number it takes the lowest that is free. Raises `ClusterError`, and `toolchain.Unavailable` for want
        of a program.
        """
        progress = progress or Progress()
        _check_machine()
        programs = {name: tool(name, progress) for name in (*components.TOOLS, *_HELPERS)}
        with _claim(number) as claimed:
            cluster = cls(claimed)
            try:
                with progress.step(f"cluster {claimed}", "starting Kubernetes"):
                    cluster._prepare(programs)
                    cluster._launch(stay)
                    cluster._await_ready(programs)
            except (ClusterError, CommandFailed, OSError, subprocess.TimeoutExpired) as error:
                logs = Path(tempfile.mkdtemp(prefix=f"regatta-cluster-{claimed}-"))
                cluster.collect(logs)
                cluster._remove()
                raise ClusterError(f"cluster {claimed} did not start, logs are in {logs}: {error}") from error
            except BaseException:
                cluster._remove()
                raise
        return cluster

    @classmethod
    def attach(cls, number: int = 1) -> Self:
        """The cluster of that number that runs already; raises `ClusterError` if none does."""
        cluster = cls(number)
        if cluster._process() is None:
            raise ClusterError(f"cluster {number} does not run; start it: python -m tests.e2e.cluster up")
        return cluster

    @classmethod
    def keep(cls, number: int) -> Self:
        """The cluster of that number, started if need be; it outlives this process."""
        try:
            return cls.attach(number)
        except ClusterError:
            return cls.start(number)

    def down(self) -> None:
        """Ends the cluster and removes all that it had; nothing happens if there is none."""
        with _locked(self.number):
            self._remove()

    # --- Use ---

    def kubectl_command(self, *args: str) -> list[str | Path]:
        """The command line of a kubectl call, for one that goes on in the background, such as port-forward."""
        return super().kubectl_command(f"--cache-dir={self.state.root / 'kubectl-cache'}", *args)

    def load_images(self, *archives: Path) -> list[str]:
        """Imports images into containerd; see `Cluster`."""
        for archive in archives:
            self._ctr("images", "import", str(archive.resolve()))
        return [name_in(archive) for archive in archives]

    def trust_registry(self, host: str, ca: bytes, *, at: str | None = None) -> None:
        """Writes containerd's certs.d; see `Cluster`. The node resolves the names of Services."""
        folder = self.state.trust / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes(ca)
        inside = INSIDE / self.state.trust.name / host / "ca.crt"
        upstream = at or f"https://{host}"
        (folder / "hosts.toml").write_text(f'server = "{upstream}"\n\n[host."{upstream}"]\nca = "{inside}"\n')

    @contextmanager
    def reach(self, namespace: str, service: str, port: int) -> Iterator[tuple[str, int]]:
        """The Service's ClusterIP, which this machine has a route to."""
        address = self.kubectl("get", "service", service, "-n", namespace, "-o=jsonpath={.spec.clusterIP}")
        self.await_port(address, port)
        yield address, port

    def in_node(self, *command: str | Path, input: str | None = None) -> str:  # noqa: A002, as in `run`
        """Runs a command on the node, in all of its namespaces, and returns its stdout."""
        process = self._process()
        if process is None:
            raise ClusterError(f"cluster {self.number} does not run")
        return run("nsenter", f"--target={process['init']}", *_NAMESPACES, *command, input=input)

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        """`kill -9` of a pod's container, by default its first; the kubelet then restarts it."""
        query = "{.status.containerStatuses[" + (f'?(@.name=="{container}")' if container else "0") + "].containerID}"
        found = self.kubectl("get", "pod", pod, "-n", namespace, f"-o=jsonpath={query}")
        self._ctr("tasks", "kill", "--signal", "SIGKILL", found.removeprefix("containerd://"))

    def components(self) -> dict[str, dict[str, int | None]]:
        """Of each component its `pid` on the node, None while it is stopped, and how often it was started."""
        return self._control({})

    def stop(self, component: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends a component and keeps it ended; returns once it is."""
        self._control({"component": component, "wanted": False, "signal": how})
        _await(lambda: self.components()[component]["pid"] is None, f"{component} did not stop", timeout=_STOP_TIMEOUT)

    def resume(self, component: str) -> None:
        """Starts a component that was stopped."""
        self._control({"component": component, "wanted": True, "signal": 0})

    def await_api(self) -> None:
        """Waits until the API server is ready, as after a restart."""
        trust = ssl.create_default_context(cafile=self.state.pki / "ca.crt")
        trust.load_cert_chain(self.state.pki / "admin.crt", self.state.pki / "admin.key")

        def ready() -> bool:
            try:
                urllib.request.urlopen(f"{self.server}/readyz", timeout=5, context=trust).close()  # noqa: S310
            except urllib.error.HTTPError as error:
                error.close()
                return False
            except OSError:
                return False
            return True

        _await(ready, "the API server was not ready", check=self._check_alive)

    def cut_off(self, namespace: str, *pods: str) -> AbstractContextManager[None]:
        """Drops it on the node; see `Cluster`."""
        return cut_off(self, self.in_node, namespace, pods, iptables=tool("iptables"))

    def await_port(self, host: str, port: int) -> None:
        """Waits until a Service or pod accepts connections; kube-proxy is a moment behind a pod's readiness."""

        def accepts() -> bool:
            with suppress(OSError):
                socket.create_connection((host, port), timeout=1).close()
                return True
            return False

        _await(accepts, f"{host}:{port} did not accept connections")

    def collect_logs(self, folder: Path) -> None:
        """Straight from the node: those of earlier containers too, and also while the API server is away."""
        for source, target in ((self.state.logs, "components"), (self.state.root / "overlay/var/log/pods", "pods")):
            shutil.copytree(source, folder / target, dirs_exist_ok=True)

    # --- Start ---

    def _prepare(self, programs: dict[str, Path]) -> None:
        """Writes the state folder and makes the control groups."""
        state = self.state
        state.root.mkdir(parents=True, mode=0o700)
        for folder in (state.logs, state.volumes, state.trust, state.root / "run"):
            folder.mkdir()
        write_pki(state.pki, self.network)
        components.write_config(state, self.network, programs["bridge"].parent)
        write_kubeconfig(state.kubeconfig, state.pki, "admin", self.server, self.network.node_name)
        (state.root / "commands.json").write_text(json.dumps(components.commands(self.network, programs), indent=1))
        _make_cgroups(self.network.cgroup)

    def _launch(self, stay: bool) -> None:
        """Starts the process tree and connects it to the host."""
        environment = {
            "PATH": _PATH,
            "PYTHONPATH": str(_ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(INSIDE),  # not the caller's, who may have logins to registries there
            "REGATTA_CACHE": str(cache_dir().resolve()),
        }
        command = ["unshare", *_NAMESPACES, "--fork", "--kill-child", sys.executable, "-m", "tests.e2e.cluster.node"]
        with (self.state.logs / "node.log").open("wb") as log:
            starter = subprocess.Popen(
                [*command, str(self.number)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        self._starter = starter
        _await(lambda: bool(_children(starter.pid)), "unshare did not start", check=self._check_alive)
        process = {"unshare": starter.pid, "init": _children(starter.pid)[0], "started": _start_time(starter.pid)}
        self.state.process.write_text(json.dumps(process))
        network = self.network
        for arguments in (
            f"link add {network.link} type veth peer name eth0 netns {process['init']}",
            f"address add {network.host}/24 dev {network.link}",
            f"link set {network.link} up",
            f"route add {network.pods} via {network.node}",
            f"route add {network.services} via {network.node}",
        ):
            run("ip", *arguments.split())
        assert starter.stdin is not None
        starter.stdin.write(b"stay\n" if stay else b"leave\n")
        starter.stdin.flush()
        if stay:
            starter.stdin.close()

    def _await_ready(self, programs: dict[str, Path]) -> None:
        """Installs what makes it a whole cluster, and waits until a pod can be started."""
        archives = self._own_images(programs)
        _await(self.state.containerd.is_socket, "containerd was not ready", check=self._check_alive)
        self.load_images(*archives)
        for archive in archives:
            archive.unlink()
        self.await_api()
        dns = Template((_MANIFESTS / "dns.yaml").read_text()).substitute(ip=self.network.dns, image=_COREDNS_IMAGE)
        self.kubectl("apply", "-f", "-", input="\n---\n".join([dns, (_MANIFESTS / "storage.yaml").read_text()]))
        for what, namespace, condition in (
            ("serviceaccount/default", "default", "create"),
            (f"node/{self.network.node_name}", "default", "create"),
            (f"node/{self.network.node_name}", "default", "condition=Ready"),
            ("deployment/coredns", "kube-system", "condition=Available"),
        ):
            self.kubectl("wait", what, "-n", namespace, f"--for={condition}", f"--timeout={_START_TIMEOUT}s")

    def _own_images(self, programs: dict[str, Path]) -> list[Path]:
        platform = f"linux/{ARCH}"
        return [
            make_docker_archive(
                self.state.root / "pause.tar",
                [Programs({"busybox": programs["busybox"]})],
                name=components.PAUSE,
                platform=platform,
                config={"Entrypoint": ["/busybox", "sleep", str(2**31 - 1)], "User": "65535:65535"},
            ),
            make_docker_archive(
                self.state.root / "coredns.tar",
                [Programs({"coredns": programs["coredns"]})],
                name=_COREDNS_IMAGE,
                platform=platform,
                config={"Entrypoint": ["/coredns"]},
            ),
        ]

    def _check_alive(self) -> None:
        if self._starter and (code := self._starter.poll()) is not None:
            said = (self.state.logs / "node.log").read_text(errors="replace").splitlines()[-5:]
            raise ClusterError("\n".join([f"its first process ended with exit code {code}:", *said]))

    # --- End ---

    def _remove(self) -> None:
        if process := self._process():
            _kill(process["init"])
            _await_end(process["unshare"])
        if self._starter:
            self._starter.kill()
            self._starter.wait()
            if self._starter.stdin:
                self._starter.stdin.close()
            self._starter = None
        # It goes with the namespace, but only some time later.
        with suppress(CommandFailed):
            run("ip", "link", "delete", self.network.link)
        _remove_cgroups(self.network.cgroup)
        shutil.rmtree(self.state.root, ignore_errors=not self.state.root.exists())

    def _process(self) -> dict[str, int] | None:
        """The processes of a cluster that runs: `unshare` and `init`, the first in its namespaces."""
        try:
            process: dict[str, int] = json.loads(self.state.process.read_text())
        except FileNotFoundError:
            return None
        return process if _start_time(process["unshare"]) == process["started"] else None

    # --- Means ---

    def _ctr(self, *args: str) -> str:
        return run(tool("ctr"), f"--address={self.state.containerd}", "--namespace=k8s.io", *args, timeout=300)

    def _control(self, request: dict[str, Any]) -> dict[str, dict[str, int | None]]:
        """Asks the first process; see `node.Supervisor`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(self.state.control))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile() as answer:
                line = answer.readline()
        if not line:
            names = ", ".join([*components.TOOLS, components.PROVISIONER])
            raise ClusterError(f"there is no component {request.get('component')}; there are {names}")
        state: dict[str, dict[str, int | None]] = json.loads(line)
        return state


_HELPERS = ("bridge", "busybox", "coredns", "ctr", "iptables", "kubectl", "runc")


def _check_machine() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("a cluster on this machine", ["it needs Linux and root"])
    for name in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(name) is None:
            raise Unavailable(name, ["not on PATH; Debian's packages util-linux, mount and iproute2 have them"])
    if len(str(State.of(NUMBERS[-1]).control)) > _SOCKET_PATH_LIMIT:
        raise ClusterError(
            f"the cache {cache_dir()} has too long a path for sockets; set REGATTA_CACHE to a shorter one"
        )


@contextmanager
def _claim(number: int | None) -> Iterator[int]:
    """The number, or the lowest free one, locked while the block runs, with nothing left of earlier clusters."""
    for candidate in NUMBERS if number is None else [number]:
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(candidate, wait=number is not None))
            except BlockingIOError:
                continue
            cluster = LocalCluster(candidate)
            if cluster._process() is None:
                cluster._remove()
                yield candidate
                return
    raise ClusterError(f"cluster {number} runs already" if number else "all numbers are taken")


@contextmanager
def _locked(number: int, *, wait: bool = True) -> Iterator[None]:
    """Raises `BlockingIOError` if another process has the number and this one does not want to wait."""
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"cluster-{number}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _await(
    done: Callable[[], bool],
    complaint: str,
    *,
    check: Callable[[], None] = lambda: None,
    timeout: float = _START_TIMEOUT,
) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        check()
        if time.monotonic() > deadline:
            raise ClusterError(f"{complaint} after {timeout:.0f} s")
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _start_time(pid: int) -> int | None:
    """Tells a process from a later one of the same number: clock ticks since the machine started."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _await_end(pid: int) -> None:
    """Waits for a process that need not be a child."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if not select.select([handle], [], [], _STOP_TIMEOUT)[0]:
                raise ClusterError(f"process {pid} did not end after {_STOP_TIMEOUT} s")
        finally:
            os.close(handle)


def _hierarchies() -> Sequence[Path]:
    """The roots of cgroup v1's hierarchies, or of v2's only one."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _make_cgroups(name: str) -> None:
    """Makes the group that the kubelet expects, with processors and memory to hand on."""
    for hierarchy in _hierarchies():
        if (controllers := hierarchy / "cgroup.controllers").exists():
            wanted = " ".join(f"+{controller}" for controller in controllers.read_text().split())
            (hierarchy / "cgroup.subtree_control").write_text(wanted)
        group = hierarchy / name
        group.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def _remove_cgroups(name: str) -> None:
    for hierarchy in _hierarchies():
        for group in sorted((path for path in (hierarchy / name).glob("**/") if path.is_dir()), reverse=True):
            _await(lambda group=group: _removed(group), f"{group} is in use still", timeout=10)  # type: ignore[misc]


def _removed(group: Path) -> bool:
    """A group is busy for a moment after its last process has ended."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True
