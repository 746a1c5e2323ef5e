"""`registry-operator run`: the operator against a Kubernetes API server."""

import sys
from typing import Any

import click


class Address(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`, `:PORT` for all addresses, `[IPV6]:PORT`."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Host (empty for all addresses) and port."""
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isdecimal() or not 0 <= int(port) < 2**16:
            self.fail(f"{value!r} is not an address such as :8080, 127.0.0.1:8080 or [::1]:8080", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


@click.command(short_help="Run the operator against a Kubernetes cluster.")
@click.option(
    "--namespace",
    "-n",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Look after this namespace only; may be repeated.",
)
@click.option("--all-namespaces", "-A", is_flag=True, help="Look after the whole cluster. The default.")
@click.option(
    "--metrics-addr",
    type=Address(),
    default=":8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /healthz, /readyz and /metrics answer, without TLS or login. Port 0 takes a free one.",
)
@click.option(
    "--leader-election/--no-leader-election",
    default=True,
    show_default=True,
    help="Reconcile only while holding the Lease regatta-operator. Turn off where there is only ever one process.",
)
@click.option(
    "--leader-election-namespace",
    metavar="NAME",
    help="Where the Lease is.  [default: the pod's namespace, or the kubeconfig's]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    help="How many Registries are worked on at the same time.",
)
@click.option(
    "--resync",
    type=click.FloatRange(min=1.0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How often everything is listed anew, in case a watch has missed something.",
)
@click.option(
    "--jobs-url",
    metavar="URL",
    help="Where servers tell of their jobs, {service} and {namespace} standing for those of a Registry's metrics; for "
    "an operator that runs outside of the cluster.  [default: http://{service}.{namespace}.svc:5001/jobs]",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    help="[default: text on a terminal, else json]",
)
@click.option("--verbose", "-v", is_flag=True, help="Log every step.")
def run(
    *,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    metrics_addr: tuple[str, int],
    leader_election: bool,
    leader_election_namespace: str | None,
    workers: int,
    resync: float,
    jobs_url: str | None,
    log_format: str | None,
    verbose: bool,
) -> None:
    """Keep a registry server running for every Registry of a Kubernetes cluster.

    The cluster is that of KUBECONFIG, or the one the pod runs in, or that of ~/.kube/config. SIGTERM or Ctrl-C ends it
    after what it was just doing. Started again over an unchanged cluster, it writes nothing.

    \b
    Examples:
      KUBECONFIG=~/.kube/config registry-operator run
      registry-operator run --namespace team-a --namespace team-b --metrics-addr 127.0.0.1:8080
    """
    import asyncio

    from registry_operator.cluster.kubernetes.api import CredentialsError
    from registry_operator.runtime import log, operator
    from registry_operator.runtime.server import AddressInUse

    if namespaces and all_namespaces:
        raise click.UsageError("--namespace and --all-namespaces exclude each other")
    log.configure(
        "json" if (log_format or ("text" if sys.stderr.isatty() else "json")) == "json" else "text", verbose=verbose
    )
    host, port = metrics_addr
    options = operator.Options(
        namespaces=namespaces,
        metrics_host=host,
        metrics_port=port,
        leader_election=leader_election,
        lease_namespace=leader_election_namespace,
        workers=workers,
        resync_seconds=resync,
        **({"jobs_url": jobs_url} if jobs_url else {}),
    )
    try:
        asyncio.run(operator.run(options))
    except (CredentialsError, AddressInUse) as error:
        click.echo(f"registry-operator: {error}", err=True)
        sys.exit(2)
    except operator.WatchFailed as error:
        click.echo(f"registry-operator: {error}", err=True)
        sys.exit(1)
