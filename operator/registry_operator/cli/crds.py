"""`registry-operator crds`: the CustomResourceDefinitions as files."""

from pathlib import Path

import click


@click.command(short_help="Write or check the CustomResourceDefinitions.")
@click.option(
    "--write",
    "write_to",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files that changed.",
)
@click.option(
    "--check",
    "check_in",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Fail if a file isn't what --write would write.",
)
def crds(write_to: Path | None, check_in: Path | None) -> None:
    """Print the CustomResourceDefinitions, or keep a directory of them.

    \b
      registry-operator crds | kubectl apply --server-side -f -
      registry-operator crds --write crds
      registry-operator crds --check crds
    """
    from registry_operator.api import crd

    if write_to is not None and check_in is not None:
        raise click.UsageError("--write and --check exclude each other")
    if write_to is not None:
        for path in crd.write(write_to):
            click.echo(f"wrote {path}")
    elif check_in is not None:
        if stale := crd.outdated(check_in):
            names = ", ".join(str(path) for path in stale)
            raise click.ClickException(
                f"not what the types say: {names}; run: registry-operator crds --write {check_in}"
            )
        click.echo(f"{check_in} is current")
    else:
        click.echo("---\n".join(crd.documents().values()), nl=False)
