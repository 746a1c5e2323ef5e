"""The cluster that end-to-end tests run in: one interface, several ways of having one.

    Cluster (contract.py) ◄── KindCluster, LocalCluster, KubeconfigCluster      chosen by ways.py

A test asks for `Cluster` and runs in each of them. The local one is a real single-node Kubernetes on this machine,
without Docker and without leaving it:

    with LocalCluster.up() as cluster:                   # or: python -m tests.e2e.cluster up | down | status | …
        cluster.load_images(archive)
        cluster.kubectl("apply", "-f", "-", input=manifest)

etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, containerd and a volume provisioner
run in one process tree with namespaces of its own; CoreDNS runs as a pod. `local.py` brings that tree up and takes it
down, `node.py` is its first process, `components.py` says what runs in it, `pki.py` makes its certificates, and
`layout.py` has its numbers and files.
"""

from tests.e2e.cluster.contract import Cluster, ClusterError, Unsupported
from tests.e2e.cluster.kind import KindCluster
from tests.e2e.cluster.local import LocalCluster

__all__ = ["Cluster", "ClusterError", "KindCluster", "LocalCluster", "Unsupported"]
