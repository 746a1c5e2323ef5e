"""Helm as a program, and what it renders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.fixtures.processes import CommandFailed, run

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "regatta"
RELEASE = "regatta"


class Helm:
    """The command, with folders of its own. Its cluster is the one that `kubeconfig` names."""

    def __init__(self, program: Path, kubeconfig: Path, home: Path) -> None:
        self._program = program
        self._env = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        self._env["KUBECONFIG"] = str(kubeconfig)

    def __call__(self, *words: str | Path, values: Json | None = None) -> str:
        """Runs it and returns its stdout; raises CommandFailed with its stderr."""
        given = () if values is None else ("--values=-",)
        text = None if values is None else json.dumps(values)
        return run(self._program, *words, *given, env=self._env, input=text, timeout=300)

    def template(self, values: Json | None = None, *, namespace: str = "default", chart: Path = CHART) -> list[Json]:
        """The objects that the chart makes of these values, hooks among them."""
        text = self("template", RELEASE, chart, f"--namespace={namespace}", "--kube-version=1.36", values=values or {})
        return documents(text)

    def refusal(self, values: Json) -> str:
        """Why it renders nothing of these values."""
        try:
            self.template(values)
        except CommandFailed as failure:
            return failure.stderr
        raise AssertionError(f"rendered all the same: {values}")

    @contextmanager
    def release(self, namespace: str, values: Json | None = None) -> Iterator[list[Json]]:
        """Installs the chart while the block runs, and gives the objects of the release.

        The CRDs may be there from another test, or stay from another release.
        """
        self("install", RELEASE, CHART, f"--namespace={namespace}", "--take-ownership", values=values or {})
        try:
            yield self.get("manifest", namespace)
        finally:
            self("uninstall", RELEASE, f"--namespace={namespace}", "--ignore-not-found")

    def get(self, what: str, namespace: str) -> list[Json]:
        """The objects of a release: its `manifest`, or its `hooks`."""
        text = self("get", what, RELEASE, f"--namespace={namespace}")
        return documents(text)


def documents(text: str) -> list[Json]:
    """The objects of a YAML text."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def one(objects: list[Json], kind: str, name: str | None = None) -> Json:
    """The object of this kind (and name), of which there is one."""
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of kind {kind} and name {name}"
    return found[0]


def kinds(objects: list[Json]) -> set[str]:
    """The kinds of objects that there are."""
    return {each["kind"] for each in objects}


def operator_arguments(objects: list[Json], namespace: str) -> list[str]:
    """What the Deployment starts the operator with, but for its address; in no pod it must be told its namespace."""
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert [*container["command"], container["args"][0]] == ["registry-operator", "run"]
    given = [argument for argument in container["args"][1:] if not argument.startswith("--metrics-addr=")]
    return [*given, f"--leader-election-namespace={namespace}"]
