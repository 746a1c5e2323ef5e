"""Writes what is derived from the chart: its copy of the CRDs, and `manifests/install/install.yaml` for kubectl.

    crds/ ──► helm/regatta/files/crds/ ──► helm template ──► without Helm's own marks ──► manifests/install/install.yaml

`make manifests` writes, `make lint` checks that all is current and that the chart's version is the project's.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from registry_operator.api import crd
from registry_server import __version__
from tests.toolchain import Unavailable, tool

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "regatta"
CRDS = CHART / "files" / "crds"
INSTALL = ROOT / "manifests" / "install" / "install.yaml"

NAMESPACE = "regatta-system"
KUBERNETES = "1.36"
"""What the chart is rendered for; nothing in it depends on this."""

HEADER = """\
# Regatta's operator and its CustomResourceDefinitions, for the whole cluster.
#   kubectl apply --server-side -f install.yaml
# Written by `make manifests` from helm/regatta. Don't edit; change it by kustomize, or use the chart.
"""

Json = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def namespace() -> Json:
    """The namespace, which takes nothing but pods as restricted as ours."""
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": levels}}


def rendered(helm: Path) -> Iterator[Json]:
    """The chart's objects with its default values, without its test."""
    options = (f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES}", "--skip-tests")
    command = (str(helm), "template", "regatta", str(CHART), *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise click.ClickException(done.stderr.strip())
    yield from (document for document in yaml.safe_load_all(done.stdout) if document)


def without_helm(manifest: Json) -> Json:
    """The object as somebody else than Helm installs it."""
    metadata = manifest["metadata"]
    for field in ("labels", "annotations"):
        kept = {name: value for name, value in metadata.pop(field, {}).items() if not _of_helm(name)}
        if kept:
            metadata[field] = kept
    return manifest


def _of_helm(name: str) -> bool:
    return name.startswith("helm.sh/") or name == "app.kubernetes.io/managed-by"


def install(helm: Path) -> str:
    """The text of `install.yaml`."""
    documents = [namespace(), *map(without_helm, rendered(helm))]
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


def chart_versions() -> dict[str, str]:
    """The version by each of the names that Chart.yaml has for it."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    tags = {f"annotations.artifacthub.io/images.{each['name']}": each["image"].rpartition(":")[2] for each in images}
    return {"version": chart["version"], "appVersion": chart["appVersion"], **tags}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if something isn't what would be written.")
def main(*, check: bool) -> None:
    """Write what is derived from the chart and from crds/."""
    if wrong := {name: version for name, version in chart_versions().items() if version != __version__}:
        named = ", ".join(f"{name} {version}" for name, version in wrong.items())
        raise click.ClickException(f"helm/regatta/Chart.yaml: {named}; the project's version is {__version__}")
    try:
        helm = tool("helm")
    except Unavailable as failure:
        if check and os.environ.get("REGATTA_REQUIRE_ALL") != "1":
            click.echo(f"not checked whether manifests/install is current: {failure}")
            return
        raise click.ClickException(str(failure)) from failure
    # The CRDs first: they are rendered into the other.
    changed = _outdated_crds() if check else _write_crds()
    changed += _outdated_install(install(helm), check=check)
    names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
    if check and changed:
        raise click.ClickException(f"not what the chart and the types say: {names}; run: make manifests")
    click.echo(f"wrote {names}" if changed else "helm/regatta and manifests/install are current")


def _outdated_crds() -> list[Path]:
    obsolete = [path for path in CRDS.glob("*.yaml") if path.name not in crd.documents()]
    return [*crd.outdated(CRDS), *obsolete]


def _write_crds() -> list[Path]:
    changed = _outdated_crds()
    crd.write(CRDS)
    for path in changed:
        if path.name not in crd.documents():
            path.unlink()
    return changed


def _outdated_install(text: str, *, check: bool) -> list[Path]:
    if INSTALL.is_file() and INSTALL.read_text() == text:
        return []
    if not check:
        INSTALL.write_text(text)
    return [INSTALL]


if __name__ == "__main__":
    sys.exit(main())
