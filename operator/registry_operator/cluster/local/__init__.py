"""The engine of local mode: a cluster that is a state directory and processes on this machine."""

from registry_operator.cluster.local.cluster import Event, LocalCluster
from registry_operator.cluster.local.state import StateDirectory, StateInUse

__all__ = ["Event", "LocalCluster", "StateDirectory", "StateInUse"]
