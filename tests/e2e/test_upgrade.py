"""A release upgraded with live Registries: what the new version does not change goes on as it was."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry

Pods = dict[str, tuple[str, int]]


@pytest.fixture
def images(new_namespace: Callable[[str], Namespace]) -> Namespace:
    return new_namespace("images")


def test_a_new_chart_alone_restarts_no_pod(
    release: Release, product: Product, images: Namespace, tmp_path: Path
) -> None:
    """One whose version differs, and the images and values do not: as after a change of its documentation."""
    release.install(replace(product, chart=_renumbered(product.chart, tmp_path / "chart")))
    registry = LiveRegistry.make(images, product)
    operator, servers = _pods(release.pods()), _pods(registry.pods())
    release.upgrade(product)
    assert _pods(release.pods()) == operator
    assert _pods(registry.pods()) == servers
    release.uninstall()


def test_a_new_version_rolls_the_registries_that_follow_it_and_no_others(
    release: Release, product: Product, previous: Product, images: Namespace
) -> None:
    """With the content that they had. One whose image is named goes on untouched, while its operator is replaced."""
    release.install(previous)
    follows = LiveRegistry.make(images, previous, "follows")
    repository, _, tag = previous.server.rpartition(":")
    pinned = LiveRegistry.make(images, previous, "pinned", {"image": {"repository": repository, "tag": tag}})
    for registry in (follows, pinned):
        with registry.client() as client:
            client.push_random("team/data:1")
    operator, before = _pods(release.pods()), _pods(pinned.pods())
    release.upgrade(product)
    follows.namespace.wait("registry/follows", f"jsonpath={{.status.version}}={product.version}")
    if product.spec:
        follows.apply(product.spec)
    follows.await_ready()
    assert not set(_pods(release.pods())) & set(operator)
    assert [pod["spec"]["containers"][0]["image"] for pod in follows.pods()] == [product.server]
    assert _pods(pinned.pods()) == before
    for registry in (follows, pinned):
        with registry.client() as client:
            client.validate("team/data:1")


def _pods(pods: list[Json]) -> Pods:
    """Of each pod its node's view: what changes when it is replaced, or a container of it restarted."""
    return {
        pod["metadata"]["uid"]: (status["containerID"], status["restartCount"])
        for pod in pods
        for status in pod["status"]["containerStatuses"]
    }


def _renumbered(chart: Path, to: Path) -> Path:
    """The chart as one of a lower version that installs the same images."""
    shutil.copytree(chart, to)
    file = to / "Chart.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"version": "0.0.1"}))
    return to
