"""Whom NetworkPolicies let through: as the API's rules say, and, where the network heeds them, as connections show.

The rules (networking.k8s.io/v1): a pod that no policy selects takes all connections; else those that some rule of some
policy that selects it lets through. Selectors are resolved by the API server, against the pods that there are.
"""

import ipaddress
import time
from collections.abc import Mapping
from typing import Any

from tests.e2e.harness.namespaces import Json, Namespace
from tests.fixtures.processes import CommandFailed

_HEEDED_AFTER = 60  # seconds that a network may take to heed a policy


def assert_admitted(namespace: Namespace, pod: Json, port: int, client: Json, *, admitted: bool = True) -> None:
    """That a client's pod may, or may not, connect to a port of a pod in the namespace.

    The client's container `main` has busybox.
    """
    assert admits(namespace, pod, port, client) is admitted, namespace.kubectl("get", "networkpolicies", "-o=yaml")
    if namespace.cluster.enforces_policies:
        deadline = time.monotonic() + _HEEDED_AFTER
        while _connects(namespace, pod, port, client) is not admitted:
            assert time.monotonic() < deadline, f"the network does {'not ' if admitted else ''}connect them"


def admits(namespace: Namespace, pod: Json, port: int, client: Json) -> bool:
    """Whether the policies of the namespace let the client through to the pod's port."""
    policies = [
        policy
        for policy in namespace.get("networkpolicies")["items"]
        if _selects(namespace, policy["spec"]["podSelector"], pod)
    ]
    rules = [rule for policy in policies for rule in policy["spec"].get("ingress", [])]
    return not policies or any(_lets_through(namespace, rule, pod, port, client) for rule in rules)


def _lets_through(namespace: Namespace, rule: Mapping[str, Any], pod: Json, port: int, client: Json) -> bool:
    ports, peers = rule.get("ports"), rule.get("from")
    return (not ports or any(_is_port(one, pod, port) for one in ports)) and (
        not peers or any(_is_peer(namespace, peer, client) for peer in peers)
    )


def _is_port(named: Mapping[str, Any], pod: Json, port: int) -> bool:
    if named.get("protocol", "TCP") != "TCP":
        return False
    wanted = named.get("port", port)
    declared = [one for container in pod["spec"]["containers"] for one in container.get("ports", [])]
    numbers = [one["containerPort"] for one in declared if one.get("name") == wanted]
    return port in (numbers or [wanted])


def _is_peer(namespace: Namespace, peer: Mapping[str, Any], client: Json) -> bool:
    if block := peer.get("ipBlock"):
        address = ipaddress.ip_address(client["status"]["podIP"])
        excluded = any(address in ipaddress.ip_network(one) for one in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not excluded
    home = Namespace(namespace.cluster, client["metadata"]["namespace"])
    spaces = peer.get("namespaceSelector")
    if spaces is None:
        if home.name != namespace.name:
            return False
    elif home.name not in _found(home, "namespaces", spaces):
        return False
    return "podSelector" not in peer or _selects(home, peer["podSelector"], client)


def _selects(namespace: Namespace, selector: Mapping[str, Any], pod: Json) -> bool:
    return pod["metadata"]["name"] in _found(namespace, "pods", selector)


def _found(namespace: Namespace, kind: str, selector: Mapping[str, Any]) -> list[str]:
    """The names of the objects that a label selector fits."""
    terms = [f"{label}={value}" for label, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", []):
        label, values = expression["key"], ",".join(expression.get("values", []))
        terms.append(
            {
                "In": f"{label} in ({values})",
                "NotIn": f"{label} notin ({values})",
                "Exists": label,
                "DoesNotExist": f"!{label}",
            }[expression["operator"]]
        )
    return [each["metadata"]["name"] for each in namespace.get(kind, f"--selector={','.join(terms)}")["items"]]


def _connects(namespace: Namespace, pod: Json, port: int, client: Json) -> bool:
    home, name = client["metadata"]["namespace"], client["metadata"]["name"]
    try:
        namespace.cluster.kubectl(
            "exec", "-n", home, name, "--", "nc", "-w", "3", pod["status"]["podIP"], str(port), "-e", "true"
        )
    except CommandFailed:
        return False
    return True
