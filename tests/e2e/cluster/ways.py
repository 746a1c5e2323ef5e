"""Which cluster the tests run in: the first way that this machine offers, or the one REGATTA_E2E_CLUSTER names.

kind         in a container of the Docker engine, where that has or can pull the image of kind's node
local        a single node on this machine, without Docker
kubeconfig   the cluster of KUBECONFIG
a number     the local cluster that `python -m tests.e2e.cluster --number N up` keeps
"""

import os
from collections.abc import Callable

from tests.e2e.cluster.contract import Cluster, ClusterError
from tests.e2e.cluster.kind import KindCluster
from tests.e2e.cluster.kubeconfig import KubeconfigCluster
from tests.e2e.cluster.layout import NUMBERS, State
from tests.e2e.cluster.local import LocalCluster
from tests.toolchain import Unavailable

VARIABLE = "REGATTA_E2E_CLUSTER"
DEMO = NUMBERS[-4]
"""The number of the local cluster that `make demo` keeps."""
_DEMO_BY_KIND = "regatta-demo"

# In the order they are tried. Each raises `Unavailable` where this machine can't have such a cluster.
WAYS: dict[str, Callable[[], Cluster]] = {
    "kind": KindCluster.start,
    "local": lambda: LocalCluster.start(stay=False),
    "kubeconfig": KubeconfigCluster.attach,
}

# Of those that `make demo` leaves behind; what was started before is taken up again.
_KEPT: dict[str, Callable[[], Cluster]] = {
    "kind": lambda: KindCluster.keep(_DEMO_BY_KIND),
    "local": lambda: LocalCluster.keep(DEMO),
    "kubeconfig": KubeconfigCluster.attach,
}


def start() -> Cluster:
    """A cluster for a run of the tests, which ends with this process and by its `down`, or one that stays.

    Raises `Unavailable` where there is none to be had, and `ClusterError` where one does not start.
    """
    wanted = os.environ.get(VARIABLE, "")
    return _Kept.attach(int(wanted)) if wanted.isdecimal() else _first(WAYS)


def many() -> bool:
    """Whether each process that starts one has a cluster of its own, as far as that can be told beforehand."""
    return os.environ.get(VARIABLE) in ("kind", "local") or not (VARIABLE in os.environ or "KUBECONFIG" in os.environ)


def keep() -> Cluster:
    """The cluster of `make demo`, which stays after this process. Raises as `start` does."""
    return _first(_KEPT)


def kept() -> list[Cluster]:
    """What `keep` has started and left."""
    local = [LocalCluster(DEMO)] if State.of(DEMO).root.exists() else []
    by_kind = KindCluster.find(_DEMO_BY_KIND)
    return [*local, *([by_kind] if by_kind else [])]


def _first(ways: dict[str, Callable[[], Cluster]]) -> Cluster:
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in ways:
        raise ClusterError(f"{VARIABLE} is {wanted}; it may be {', '.join(WAYS)} or the number of a local cluster")
    reasons = []
    for name, way in ways.items():
        if wanted in ("", name):
            try:
                return way()
            except Unavailable as failure:
                reasons.append(f"{name}: {failure}")
    raise Unavailable("a Kubernetes cluster", reasons)


class _Kept(LocalCluster):
    """A local cluster that stays after the tests."""

    def down(self) -> None:
        """Leaves it to whoever keeps it."""
