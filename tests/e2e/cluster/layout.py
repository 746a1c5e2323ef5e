"""What follows from a cluster's number: addresses, names and files. Clusters of different numbers share nothing."""

from dataclasses import dataclass
from pathlib import Path

from tests.toolchain.obtain import cache_dir

NUMBERS = range(1, 255)
INSIDE = Path("/run/regatta")  # where the state folder is seen inside the cluster's namespaces


@dataclass(frozen=True)
class Network:
    """A /24 each for the link to the host, for pods and for Services."""

    number: int

    @property
    def host(self) -> str:
        """The host as seen from the node and from pods."""
        return f"10.123.{self.number}.1"

    @property
    def node(self) -> str:
        return f"10.123.{self.number}.2"

    @property
    def pods(self) -> str:
        return f"10.124.{self.number}.0/24"

    @property
    def services(self) -> str:
        return f"10.125.{self.number}.0/24"

    @property
    def kubernetes(self) -> str:
        """The ClusterIP of the API server."""
        return f"10.125.{self.number}.1"

    @property
    def dns(self) -> str:
        return f"10.125.{self.number}.10"

    @property
    def link(self) -> str:
        """The host's end of the link."""
        return f"regatta{self.number}"

    @property
    def node_name(self) -> str:
        return f"regatta-{self.number}"

    @property
    def cgroup(self) -> str:
        """The control group of all pods, below the root of each hierarchy."""
        return f"regatta-cluster-{self.number}"

    @property
    def server(self) -> str:
        return f"https://{self.node}:6443"


@dataclass(frozen=True)
class State:
    """The state folder: all of a cluster that is on disk."""

    root: Path

    @classmethod
    def of(cls, number: int) -> "State":
        return cls(cache_dir() / "clusters" / str(number))

    @classmethod
    def inside(cls) -> "State":
        return cls(INSIDE)

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        """Configuration files and kubeconfigs of the components."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def trust(self) -> Path:
        """containerd's certs.d."""
        return self.root / "certs.d"

    @property
    def containerd(self) -> Path:
        return self.root / "containerd.sock"

    @property
    def control(self) -> Path:
        """The socket of the first process."""
        return self.root / "control.sock"

    @property
    def process(self) -> Path:
        """Names the process that holds the namespaces: its pid and start time."""
        return self.root / "process"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.root / "kubeconfig"
