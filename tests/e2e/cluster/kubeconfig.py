"""Any cluster that somebody has: the one that KUBECONFIG names, by its current context.

The tests make namespaces of their own in it and remove them, and install the operator for the whole cluster: it must
have none yet. Images reach its nodes by a repository that both this machine and the nodes reach.
"""

import os
from pathlib import Path

from tests.e2e.cluster.contract import Cluster, Unsupported
from tests.fixtures.images import name_in
from tests.fixtures.processes import CommandFailed, run
from tests.toolchain import Unavailable, tool

REPOSITORY = "REGATTA_E2E_REPOSITORY"
"""Names where images are pushed to, such as registry.example/regatta-e2e; crane's logins are those of docker."""


class KubeconfigCluster(Cluster):
    """A cluster that was there before the tests and stays after them."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.name = f"the cluster of {kubeconfig}"

    @classmethod
    def attach(cls) -> "KubeconfigCluster":
        """The cluster of KUBECONFIG; raises `Unavailable` if none is named or it does not answer."""
        named = os.environ.get("KUBECONFIG", "")
        if not Path(named).is_file():
            raise Unavailable("a cluster by KUBECONFIG", [f"KUBECONFIG names no file: {named}" if named else "not set"])
        cluster = cls(Path(named).resolve())
        try:
            cluster.kubectl("version", "--request-timeout=20s", timeout=60)
        except CommandFailed as failure:
            raise Unavailable(cluster.name, [failure.stderr.strip()]) from failure
        return cluster

    def load_images(self, *archives: Path) -> list[str]:
        """Pushes the images to the repository that REGATTA_E2E_REPOSITORY names; see `Cluster`."""
        repository = os.environ.get(REPOSITORY)
        if not repository:
            raise Unsupported(f"{REPOSITORY} names no repository that the nodes of {self.name} pull images from")
        return [self._push(archive, repository) for archive in archives]

    def down(self) -> None:
        """Leaves it, as it was there before."""

    def _push(self, archive: Path, repository: str) -> str:
        name = f"{repository.rstrip('/')}/{name_in(archive).rpartition('/')[2]}"
        run(tool("crane"), "push", archive, name, timeout=600)
        return name
