"""The command `registry-operator`: one module a subcommand, imported only when it is asked for.

Each module of this package defines a click command or group named like itself, with a `short_help`. Modules import
what is heavy (kopf, kubernetes, cryptography) inside their functions, so that `--help` answers at once.
"""

import importlib
from typing import Final

import click

SUBCOMMANDS: Final = ("run", "local", "crds")
"""In the order of the help text."""


class LazyGroup(click.Group):
    """Imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All subcommands, without importing any."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The subcommand, or None if there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="regatta", prog_name="registry-operator")
def main() -> None:
    """Keep a running container registry for each Registry manifest.

    \b
    On this machine:   registry-operator local up registry.yaml
    On a cluster:      kubectl apply --server-side -k manifests/install
                       (or from outside: registry-operator run)

    A manifest as small as this gives a registry with TLS and a generated login:

    \b
      apiVersion: regatta.dev/v1alpha1
      kind: Registry
      metadata: {name: team}
      spec: {}
    """
