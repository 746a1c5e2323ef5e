"""The operator as the ServiceAccount that the chart gives it: refused nothing, and with nothing it does not use."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_operator.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    REGISTRY,
    REGISTRY_BACKUP,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from registry_operator.api.names import child_labels
from registry_operator.cluster.kubernetes.api import path
from tests.chart.charts import Helm, Json, one, operator_arguments
from tests.operator.answers import jobs_url
from tests.operator.kube import Kube, eventually, operator
from tests.operator.reconcile_world import World
from tests.operator.test_reconcile_images import KEEP
from tests.operator.test_reconcile_jobs import BACKED_UP, SECOND, run, says

REVIEW = Kind("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False)
LOGIN = "ci:$2b$10$abcdefghijklmnopqrstuuKCPDuDmdCMGuzMS4yMAPpSLP.1NZqDu"
SERVER = {"name": "registry", "image": "regatta/registry-server:0"}
POD = {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [SERVER]}}
LEFTOVERS: dict[Kind, Json] = {
    SERVICE_ACCOUNT: {},
    SERVICE: {"spec": {"ports": [{"port": 1}]}},
    DEPLOYMENT: {"spec": {"selector": {"matchLabels": {"app": "old"}}, "template": POD}},
    NETWORK_POLICY: {"spec": {"podSelector": {}}},
    CONFIG_MAP: {},
    SECRET: {},
}
"""What an older version may have made and this one does not."""


@dataclass(frozen=True, order=True)
class Permission:
    """One verb on one resource; in a namespace, or (with an empty one) in the whole cluster."""

    namespace: str
    resource: str
    verb: str


def granted(objects: list[Json], service_account: str) -> set[Permission]:
    """What the chart's Roles and ClusterRoles let the ServiceAccount do."""
    permissions = set()
    for binding in objects:
        if (
            binding["kind"] in ("RoleBinding", "ClusterRoleBinding")
            and binding["subjects"][0]["name"] == service_account
        ):
            where = binding["metadata"].get("namespace", "")
            roles = [
                role
                for role in objects
                if role["kind"] == binding["roleRef"]["kind"]
                and role["metadata"]["name"] == binding["roleRef"]["name"]
                and role["metadata"].get("namespace", "") == where
            ]
            assert len(roles) == 1
            permissions |= {
                Permission(where, f"{group}/{resource}", verb)
                for rule in roles[0]["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return permissions


def asked(kube: Kube, service_account: str, namespace: str) -> set[Permission]:
    """What the ServiceAccount has asked for, as the API server has written it down."""
    permissions = set()
    for event in kube.api.requests_of(service_account, namespace):
        if (target := event.get("objectRef")) is None:
            continue  # such as /version, which everybody may read
        resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
        verbs = {event["verb"]}
        # Server-side apply of what is not there takes both verbs, and is written down as one.
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            verbs.add("create")
        where = target.get("namespace", "")
        permissions |= {Permission(where, f"{target.get('apiGroup', '')}/{resource}", verb) for verb in verbs}
    return permissions


def compare(grants: set[Permission], requests: set[Permission]) -> tuple[list[Permission], list[Permission]]:
    """What was asked for and not granted, and what was granted and never asked for."""
    everywhere = {request: Permission("", request.resource, request.verb) for request in requests}
    missing = {request for request in requests if not {request, everywhere[request]} & grants}
    return sorted(missing), sorted(grants - requests - set(everywhere.values()))


def live_a_whole_life(world: World) -> None:
    """A Registry with everything in it: faults and their end, drift, leftovers, a change of its spec, its deletion."""
    world.create({"storage": {"filesystem": {"storageClassName": "missing"}}})
    eventually(lambda: degraded(world) == "StorageClassMissing")
    world.delete("Service/team")
    eventually(lambda: world.get(SERVICE, "team"))
    world.change({"access": {"htpasswd": {"secretRef": {"name": "users"}}}})
    eventually(lambda: degraded(world) == "UsersMissing")
    world.secret("users", htpasswd=LOGIN)
    eventually(lambda: degraded(world) == "StorageClassMissing")
    leave_behind(world)
    world.kube.merge(PERSISTENT_VOLUME_CLAIM, world.namespace, "team-data", {"status": {"phase": "Bound"}}, "status")
    world.change({"tls": {"selfSigned": None, "disabled": {}}})
    eventually(lambda: "tls" not in volumes(world))
    world.roll_out()
    eventually(lambda: not any(world.get(kind, "team-old") for kind in LEFTOVERS))
    back_up(world)
    world.kube.delete(REGISTRY, world.namespace, "team")


def back_up(world: World) -> None:
    """A run comes and goes, another Registry wants to begin with it."""
    ended = run("2026-01-01T02:05:00Z", SECOND)
    world.server_says(says(ended, kept=[SECOND]))
    world.change(BACKED_UP | KEEP)
    backup = f"team-{SECOND.lower()}"
    eventually(lambda: world.get(REGISTRY_BACKUP, backup))
    world.server_says(says(ended, kept=[]))
    world.change({"log": {"level": "debug"}})
    eventually(lambda: world.get(REGISTRY_BACKUP, backup) is None)
    world.create({"bootstrap": {"backup": {"name": backup}}}, name="again")
    eventually(lambda: world.kube.condition(world.namespace, "again", "Degraded").get("reason") == "BackupMissing")
    world.kube.delete(REGISTRY, world.namespace, "again")


def degraded(world: World) -> str:
    """The reason of the condition Degraded."""
    return str(world.kube.condition(world.namespace, "team", "Degraded").get("reason"))


def volumes(world: World) -> set[str]:
    """The names of the volumes that the Deployment mounts."""
    return {each["name"] for each in world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]["volumes"]}


def leave_behind(world: World) -> None:
    """An older version's children of the same Registry."""
    registry = world.the(REGISTRY, "team")
    owner = {
        "apiVersion": registry["apiVersion"],
        "kind": registry["kind"],
        "name": "team",
        "uid": registry["metadata"]["uid"],
    }
    metadata = {"name": "team-old", "labels": child_labels("team"), "ownerReferences": [owner]}
    for kind, rest in LEFTOVERS.items():
        world.kube.create(kind, world.namespace, "team-old", metadata=metadata, **rest)


@pytest.fixture
def world(kube: Kube) -> Iterator[World]:
    """A namespace with Registries."""
    world = World(kube)
    yield world
    world.end()


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_the_operator_may_do_what_it_does_and_no_more(
    scope: str, helm: Helm, kube: Kube, system: str, world: World, tmp_path: Path
) -> None:
    """A permission that is missing or too many fails here: correct helm/regatta/templates/_rules.tpl."""
    values = {"watch": {"namespaces": [world.namespace]}} if scope == "namespace" else {}
    with helm.release(system, values) as objects:
        account = one(objects, "ServiceAccount")["metadata"]["name"]
        token = kube.api.kubectl("create", "token", account, f"--namespace={system}").strip()
        grants = granted(objects, account)
        with operator(
            kube.api.kubeconfig_for(token), tmp_path, *operator_arguments(objects, system), f"--jobs-url={jobs_url()}"
        ) as process:
            process.await_running()
            try:
                live_a_whole_life(world)
                process.await_idle()
            finally:
                missing, _ = compare(grants, asked(kube, account, system))
                # Checked first, as nothing else comes true without them.
                assert not missing, f"asked for, not granted: {missing}"
        # The operator's last request, as it ends, gives its Lease back.
        missing, unused = compare(grants, asked(kube, account, system))
    assert not missing, f"asked for, not granted: {missing}"
    assert not unused, f"granted, never asked for: {unused}"
    assert "forbidden" not in process.log.lower()


def test_in_a_namespace_it_may_do_nothing_elsewhere(helm: Helm, kube: Kube, system: str, namespace: str) -> None:
    """Least of all read Secrets."""
    with helm.release(system, {"watch": {"namespaces": [namespace]}}) as objects:
        user = f"system:serviceaccount:{system}:{one(objects, 'ServiceAccount')['metadata']['name']}"
        for verb in ("get", "list", "watch"):
            assert allowed(kube, user, verb, "secrets", namespace)
            assert not allowed(kube, user, verb, "secrets", system)
            assert not allowed(kube, user, verb, "secrets", "kube-system")


def test_who_may_view_or_edit_a_namespace_may_do_so_with_its_registries(
    helm: Helm, kube: Kube, system: str, namespace: str
) -> None:
    """By ClusterRoles that a controller adds to the cluster's own. It does not run here, so they are bound directly."""
    with helm.release(system) as objects:
        for name in ("view", "edit"):
            role = one(objects, "ClusterRole", f"regatta-operator-{name}")
            assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{name}"] == "true"
            binding = ("rolebinding", name, f"--clusterrole={role['metadata']['name']}", f"--user={name}")
            kube.api.kubectl("create", *binding, f"--namespace={namespace}")
        assert allowed(kube, "view", "list", "registries", namespace, group="regatta.dev")
        assert not allowed(kube, "view", "create", "registries", namespace, group="regatta.dev")
        assert allowed(kube, "edit", "create", "registries", namespace, group="regatta.dev")
        assert not allowed(kube, "edit", "create", "registries", system, group="regatta.dev")


def allowed(kube: Kube, user: str, verb: str, resource: str, namespace: str, *, group: str = "") -> bool:
    """Whether the API server would let a user do this."""
    wish = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    review = {"apiVersion": REVIEW.api_version, "kind": REVIEW.name, "spec": {"user": user, "resourceAttributes": wish}}
    answer = kube.http.post(path(REVIEW, None), json=review).raise_for_status()
    return bool(answer.json()["status"]["allowed"])
