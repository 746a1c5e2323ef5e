"""A cut between pods and the API server, for clusters whose node takes commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster.contract import Cluster

_ADDRESSES = "{.items[*].status.podIP}{.status.podIP}"  # of several pods, or of one


@contextmanager
def cut_off(
    cluster: Cluster, in_node: Callable[..., str], namespace: str, pods: tuple[str, ...], *, iptables: str | Path
) -> Iterator[None]:
    """Drops on the node what the pods send to the API server's Service; see `Cluster.cut_off`."""
    service = cluster.kubectl("get", "service", "kubernetes", "-n=default", "-o=jsonpath={.spec.clusterIP}")
    addresses = cluster.kubectl("get", "pods", "-n", namespace, *pods, f"-o=jsonpath={_ADDRESSES}").split()
    # Before the address is translated, so that open connections are cut, too.
    rules = [("PREROUTING", "-s", address, "-d", service, "-j", "DROP") for address in addresses]
    for rule in rules:
        in_node(iptables, "-t", "raw", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            in_node(iptables, "-t", "raw", "-D", *rule)
