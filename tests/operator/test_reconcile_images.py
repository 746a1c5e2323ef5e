"""Images that pods run: retention and garbage collection are told of them."""

from typing import Any

import pytest

from registry_operator.api.kinds import DEPLOYMENT, SERVICE_ACCOUNT, Kind
from registry_operator.cluster.kubernetes.images import _images
from tests.operator.kube import Json
from tests.operator.reconcile_world import World
from tests.operator.test_reconcile_archives import told

POD = Kind("v1", "Pod", "pods")
KEEP: Json = {"retention": {"rules": [{"repositories": ["**"], "keep": {"last": 3}}]}}
DIGEST = "sha256:" + "0" * 64


def pod(image: str, *, ran: str | None = None, phase: str = "Running") -> Json:
    status = {"phase": phase, "containerStatuses": [{"image": image, "imageID": ran or ""}]}
    return {"spec": {"containers": [{"image": image}]}, "status": status}


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        (pod("team.images.svc:5000/app:v1"), [("team.images.svc:5000", "app:v1")]),
        (pod("team.images.svc:5000/deep/app"), [("team.images.svc:5000", "deep/app:latest")]),
        (pod("registry.example.com/app:v1"), [("registry.example.com:443", "app:v1")]),
        (pod("localhost:5000/app:v1"), [("localhost:5000", "app:v1")]),
        (pod(f"a.b/app@{DIGEST}"), [("a.b:443", f"app@{DIGEST}")]),
        (pod(f"a.b/app:v1@{DIGEST}"), [("a.b:443", "app:v1"), ("a.b:443", f"app@{DIGEST}")]),
        (pod("a.b/app:v1", ran=f"a.b/app@{DIGEST}"), [("a.b:443", "app:v1"), ("a.b:443", f"app@{DIGEST}")]),
        (
            pod("a.b/app:v1", ran=f"docker-pullable://a.b/app@{DIGEST}"),
            [("a.b:443", "app:v1"), ("a.b:443", f"app@{DIGEST}")],
        ),
        (pod("[::1]:5000/app:v1"), [("[::1]:5000", "app:v1")]),
        (pod("a.b/app:v1", phase="Succeeded"), []),
        (pod("busybox:1.36"), []),
        (pod("library/busybox"), []),
        (pod("a.b/app:v1", ran=DIGEST), [("a.b:443", "app:v1")]),
        ({"spec": {"initContainers": [{"image": "a.b/init:v1"}]}}, [("a.b:443", "init:v1")]),
        (pod("a.b/../../etc/passwd"), []),
    ],
)
def test_what_a_pod_runs(manifest: Json, found: list[tuple[str, str]]) -> None:
    assert sorted(set(_images(manifest))) == sorted(found)


def run(world: World, name: str, image: str, *, ran: str = "") -> None:
    """Somebody's pod. Nothing runs it, so that its status is what we say."""
    spec: dict[str, Any] = {"containers": [{"name": "app", "image": image}], "automountServiceAccountToken": False}
    if world.get(SERVICE_ACCOUNT, "default") is None:
        world.kube.create(SERVICE_ACCOUNT, world.namespace, "default")
    world.kube.create(POD, world.namespace, name, spec=spec)
    container = {"name": "app", "image": image, "imageID": ran, "ready": True, "restartCount": 0}
    status = {"phase": "Running", "containerStatuses": [container]}
    world.kube.merge(POD, world.namespace, name, {"status": status}, "status")


def test_the_server_is_told_of_those_that_are_its_own(world: World) -> None:
    host = f"team.{world.namespace}.svc:5000"
    run(world, "one", f"{host}/app:v1", ran=f"{host}/app@{DIGEST}")
    run(world, "other", "another.example.com/app:v2")
    run(world, "named", "images.example.com/app:v3")
    world.create(KEEP)
    world.reconcile()
    assert told(world)["inuse"] == ["app:v1", f"app@{DIGEST}"]
    world.change({"retention": {"hosts": ["images.example.com"]}})
    world.reconcile()
    assert told(world)["inuse"] == ["app:v1", "app:v3", f"app@{DIGEST}"]


def test_other_images_roll_no_pod(world: World) -> None:
    world.serve(KEEP)
    before = world.the(DEPLOYMENT, "team")["spec"]["template"]
    run(world, "one", f"team.{world.namespace}.svc:5000/app:v1")
    world.reconcile()
    assert told(world)["inuse"] == ["app:v1"]
    assert world.the(DEPLOYMENT, "team")["spec"]["template"] == before


def test_none_is_looked_for_unless_retention_keeps_them(world: World) -> None:
    run(world, "one", f"team.{world.namespace}.svc:5000/app:v1")
    world.create({"retention": {**KEEP["retention"], "keepRunning": False}})
    world.reconcile()
    assert "inuse" not in told(world)
