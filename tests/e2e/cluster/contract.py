"""What an end-to-end test may ask of a cluster, whichever it is.

    Cluster ◄── KindCluster, LocalCluster, KubeconfigCluster      which one: `ways.py`

Each way of having a cluster is a class of its own below `Cluster`. It says how images get in, and overrides what it can
do better, or at all; what it leaves as it is here raises `Unsupported`, which ends the test as one whose tool is
missing.
"""

import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tests.fixtures.processes import CommandFailed, run
from tests.toolchain import tool

_KINDS = "nodes,pods,deployments,statefulsets,daemonsets,jobs,cronjobs,services,ingresses,pvc,pv,networkpolicies,pdb"


class ClusterError(Exception):
    """The cluster cannot be started or used; the message says why and what to do."""


class Unsupported(ClusterError):
    """This kind of cluster can't do what a test asks for; the message says what and why."""


class Cluster(ABC):
    """A running Kubernetes of which the tests are the administrator."""

    name: str
    """Says which cluster this is, to people."""
    kubeconfig: Path

    @property
    def enforces_policies(self) -> bool:
        """Whether its network is known to heed NetworkPolicies."""
        return False

    # --- Use ---

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 300) -> str:  # noqa: A002, as in `run`
        """Runs kubectl as the administrator and returns its stdout; raises `CommandFailed` with its stderr."""
        return run(*self.kubectl_command(*args), input=input, timeout=timeout)

    def kubectl_command(self, *args: str) -> list[str | Path]:
        """The command line of a kubectl call, for one that goes on in the background, such as port-forward."""
        return [tool("kubectl"), f"--kubeconfig={self.kubeconfig}", *args]

    @abstractmethod
    def load_images(self, *archives: Path) -> list[str]:
        """Makes images runnable on every node, each a tar file as `docker save` writes it with one name.

        Returns the names by which pods run them with `imagePullPolicy: IfNotPresent`: those in the archives, unless the
        cluster takes images from a registry alone.
        """

    def trust_registry(self, host: str, ca: bytes, *, at: str | None = None) -> None:
        """Lets nodes pull from `host`, a name with its port, whose certificate `ca` (PEM) has signed.

        `host` is the full name of a Service, as in `team.images.svc.cluster.local:5000`; for any other name `at` gives
        the URL. Takes effect at once.
        """
        raise Unsupported(f"what the nodes of {self.name} trust can't be changed from here")

    def reach(self, namespace: str, service: str, port: int) -> AbstractContextManager[tuple[str, int]]:
        """Host and port by which this machine reaches a port of a Service while the block runs."""
        return self._forwarded(namespace, service, port)

    # --- Faults ---

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        """`kill -9` of a pod's container, by default its first; the kubelet then restarts it."""
        raise Unsupported(f"nobody gets onto the nodes of {self.name} to kill a process")

    def stop(self, component: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends a component, such as `kubelet` or `kube-apiserver`, and keeps it ended; returns once it is."""
        raise Unsupported(f"the components of {self.name} can't be stopped from here")

    def resume(self, component: str) -> None:
        """Starts a component that was stopped; returns before it is ready."""
        raise Unsupported(f"the components of {self.name} can't be started from here")

    def restart(self, component: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends a component and starts it again; returns once it runs, which is before it is ready."""
        self.stop(component, how)
        self.resume(component)

    def await_api(self) -> None:
        """Waits until the API server is ready, as after a restart."""
        raise Unsupported(f"the API server of {self.name} can't be restarted from here")

    def cut_off(self, namespace: str, *pods: str) -> AbstractContextManager[None]:
        """While the block runs, nothing that the pods send reaches the API server, and nobody tells them so."""
        raise Unsupported(f"the network between the pods and the API server of {self.name} can't be cut from here")

    # --- End ---

    @abstractmethod
    def down(self) -> None:
        """Ends the cluster and removes all that it had, if it was started for the tests."""

    def collect(self, folder: Path) -> None:
        """Writes what helps to understand a failure: logs of components and pods, events, objects, descriptions.

        What cannot be had leaves its error in its place. Secrets are left out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError, CommandFailed, subprocess.TimeoutExpired):
            self.collect_logs(folder)
        kinds = _KINDS
        with suppress(CommandFailed, subprocess.TimeoutExpired):
            custom = self.kubectl("api-resources", "--api-group=regatta.dev", "-o=name", timeout=60).split()
            kinds = ",".join([kinds, *custom])
        for name, arguments in {
            "events.txt": ["get", "events", "--sort-by=.metadata.creationTimestamp"],
            "overview.txt": ["get", kinds, "-o=wide"],
            "describe.txt": ["describe", kinds],
            "objects.yaml": ["get", f"{kinds},configmaps", "-o=yaml"],
        }.items():
            (folder / name).write_text(self._said(*arguments, "--all-namespaces"))

    def collect_logs(self, folder: Path) -> None:
        """Writes the logs of pods, also of containers before the last restart, below `folder/pods`."""
        shutil.rmtree(folder / "pods", ignore_errors=True)
        query = '{range .items[*]}{.metadata.namespace} {.metadata.name}{"\\n"}{end}'
        for line in self.kubectl("get", "pods", "--all-namespaces", f"-o=jsonpath={query}", timeout=60).splitlines():
            namespace, pod = line.split()
            logs = ("logs", "-n", namespace, pod, "--all-containers", "--prefix")
            into = folder / "pods" / f"{namespace}_{pod}"
            into.mkdir(parents=True)
            (into / "current.log").write_text(self._said(*logs))
            with suppress(CommandFailed, subprocess.TimeoutExpired):
                (into / "previous.log").write_text(self.kubectl(*logs, "--previous", timeout=60))

    # --- Means ---

    def _said(self, *args: str) -> str:
        try:
            return self.kubectl(*args, timeout=60)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            return str(error)

    @contextmanager
    def _forwarded(self, namespace: str, service: str, port: int) -> Iterator[tuple[str, int]]:
        command = self.kubectl_command("-n", namespace, "port-forward", f"service/{service}", f":{port}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
            try:
                assert forwarding.stdout is not None
                said = forwarding.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", said)
                if found is None:
                    raise ClusterError(f"service/{service} of {namespace} can't be reached by port-forward: {said}")
                yield "127.0.0.1", int(found[1])
            finally:
                forwarding.terminate()
