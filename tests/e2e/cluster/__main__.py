"""The command line: `python -m tests.e2e.cluster up | down | status | load-image | kubeconfig | collect`."""

import argparse
import sys
from pathlib import Path

from tests.e2e.cluster.contract import ClusterError
from tests.e2e.cluster.layout import NUMBERS, State
from tests.e2e.cluster.local import LocalCluster
from tests.fixtures.processes import CommandFailed
from tests.toolchain import Unavailable


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.cluster",
        description="A real single-node Kubernetes on this machine, without Docker. Needs Linux and root.",
    )
    parser.add_argument(
        "--number", type=int, choices=NUMBERS, default=1, metavar="N", help="which cluster; 1 by default"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start the cluster and keep it")
    commands.add_parser("down", help="end it and remove all that it had")
    commands.add_parser("status", help="show whether it runs, and its components")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    load = commands.add_parser("load-image", help="import images for pods to run")
    load.add_argument("file", nargs="+", type=Path, help="a tar file as `docker save` writes it")
    collect = commands.add_parser("collect", help="write logs, events and descriptions into a folder")
    collect.add_argument("folder", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        _run(parsed)
    except (ClusterError, Unavailable, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(parsed: argparse.Namespace) -> None:
    match parsed.command:
        case "up":
            _show_way(LocalCluster.start(parsed.number))
        case "down":
            there = State.of(parsed.number).root.exists()
            LocalCluster(parsed.number).down()
            print(f"cluster {parsed.number} is gone" if there else f"there is no cluster {parsed.number}")
        case "status":
            _show(LocalCluster.attach(parsed.number))
        case "kubeconfig":
            print(LocalCluster.attach(parsed.number).kubeconfig)
        case "load-image":
            LocalCluster.attach(parsed.number).load_images(*parsed.file)
        case "collect":
            LocalCluster.attach(parsed.number).collect(parsed.folder)


def _show_way(cluster: LocalCluster) -> None:
    option = "" if cluster.number == 1 else f" --number {cluster.number}"
    print(f"cluster {cluster.number} is ready at {cluster.server}, logs in {cluster.state.logs}\n")
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    print("  kubectl get pods --all-namespaces")
    print(f"  python -m tests.e2e.cluster{option} down")


def _show(cluster: LocalCluster) -> None:
    print(f"cluster {cluster.number} runs at {cluster.server}, state in {cluster.state.root}\n")
    for name, state in cluster.components().items():
        runs = f"pid {state['pid']}" if state["pid"] else "stopped"
        print(f"  {name:<24} {runs:<12} started {state['starts']} times")
    print("\n" + cluster.kubectl("get", "nodes,pods", "--all-namespaces", "-o=wide").rstrip())


if __name__ == "__main__":
    sys.exit(main())
