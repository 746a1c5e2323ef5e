"""Children of a Registry on a real API server: made, kept, repaired, pruned, and never taken from others."""

import json

import pytest

from registry_operator.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    REGISTRY,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from registry_operator.api.names import child_labels
from registry_operator.reconcile.registry import Outcome
from tests.operator.kube import Json
from tests.operator.reconcile_world import World

POD = Kind("v1", "Pod", "pods")

CHILDREN = [
    "ConfigMap/team-ca",
    "Deployment/team",
    "NetworkPolicy/team",
    "PersistentVolumeClaim/team-data",
    "Secret/team-admin",
    "Secret/team-ca",
    "Secret/team-config",
    "Secret/team-tls",
    "Service/team",
    "Service/team-metrics",
    "ServiceAccount/team",
]


class TestMaking:
    """From a manifest to its children."""

    def test_an_empty_spec_gives_all_children(self, world: World) -> None:
        """TLS, a login and storage come by themselves."""
        world.create()
        world.reconcile()
        assert world.children() == CHILDREN

    def test_all_but_the_claim_go_with_the_registry(self, world: World) -> None:
        """The content outlives the Registry."""
        uid = world.create()["metadata"]["uid"]
        world.reconcile()
        for (kind, _, _), child in world.kube.children(world.namespace).items():
            owners = [owner["uid"] for owner in child["metadata"].get("ownerReferences", [])]
            assert owners == ([] if kind == "PersistentVolumeClaim" else [uid])

    def test_its_pods_are_restricted(self, world: World) -> None:
        """Pod security `restricted` admits a pod of the Deployment's template."""
        enforce = "pod-security.kubernetes.io/enforce=restricted"
        world.kube.api.kubectl("label", "namespace", world.namespace, enforce)
        world.create()
        world.reconcile()
        template = world.the(DEPLOYMENT, "team")["spec"]["template"]
        world.kube.create(POD, world.namespace, "pod", spec=template["spec"])

    def test_names_too_long_for_a_service_are_no_obstacle(self, world: World) -> None:
        """Two Registries whose names differ at the end have children of their own."""
        names = [f"{'r' * 200}.{end}" for end in ("one", "two")]
        for name in names:
            world.create(name=name)
            world.reconcile(name)
            assert world.condition("Degraded", name)[0] == "False"
        assert len(world.children()) == 2 * len(CHILDREN)

    def test_one_that_is_gone_is_no_concern(self, world: World) -> None:
        """Nor one that never was."""
        with world.without_writes():
            assert world.reconcile("nobody") == Outcome()

    def test_one_that_is_going_is_left_alone(self, world: World) -> None:
        """What it owned goes with it."""
        world.create()
        world.kube.merge(REGISTRY, world.namespace, "team", {"metadata": {"finalizers": ["example.com/backup"]}})
        world.kube.delete(REGISTRY, world.namespace, "team")
        with world.without_writes():
            assert world.reconcile() == Outcome()


SPECS: dict[str, Json] = {
    "the smallest": {},
    "one with everything": {
        "storage": {"filesystem": {"size": "1024Mi", "accessModes": ["ReadWriteMany"]}},
        "access": {
            "anonymous": "pull",
            "policies": [{"subjects": ["user:admin"], "repositories": ["a/**", "b/*"], "actions": ["pull", "push"]}],
        },
        "service": {
            "type": "NodePort",
            "port": 443,
            "annotations": {"example.com/note": "'a' <b> &c \u2028 \U0001f6a2"},
        },
        "networkPolicy": {
            "clientsFrom": [
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "ci"}}},
                {"podSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
            "metricsFrom": [
                {
                    "namespaceSelector": {
                        "matchExpressions": [
                            {"key": "team", "operator": "In", "values": ["a", "b"]},
                            {"key": "legacy", "operator": "DoesNotExist"},
                        ]
                    }
                }
            ],
        },
        "replicas": 3,
        "resources": {
            "requests": {"cpu": "1000m", "memory": "0.5Gi"},
            "limits": {"cpu": 2, "memory": "1073741824"},
        },
        "scheduling": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"key": "a", "operator": "Exists"},
                {"effect": "NoExecute", "tolerationSeconds": 5, "key": "b"},
            ],
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 1,
                            "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                        }
                    ]
                }
            },
            "topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone"}],
            "priorityClassName": "system-cluster-critical",
        },
        "image": {
            "repository": "mirror.example.com/registry-server",
            "tag": "9",
            "pullSecrets": [{"name": "pull"}],
        },
        "log": {"level": "debug"},
    },
    "one with empty parts": {
        "scheduling": {"tolerations": [], "nodeSelector": {}, "affinity": {}},
        "resources": {},
    },
    "one without TLS": {"tls": {"disabled": {}}},
    "one without a NetworkPolicy": {"networkPolicy": {"enabled": False}},
}


class TestKeeping:
    """Nothing is written where nothing differs."""

    @pytest.mark.parametrize("which", SPECS)
    def test_a_second_look_writes_nothing(self, world: World, which: str) -> None:
        """Nor does the first one of an operator that has been restarted; nor a later one."""
        world.create(SPECS[which])
        world.reconcile()
        assert world.condition("Degraded")[0] == "False", world.condition("Degraded")
        with world.without_writes():
            world.reconcile()
        world.roll_out()
        world.reconcile()
        world.pass_time(hours=12)
        with world.without_writes():
            world.reconcile()

    def test_what_others_add_is_no_difference(self, world: World) -> None:
        """Labels, ports, a sidecar: they stay, and nobody fights over them."""
        world.serve()
        metadata = {"metadata": {"labels": {"cost-centre": "7"}, "annotations": {"seen-by": "argo"}}}
        world.kube.merge(SERVICE, world.namespace, "team", metadata)
        pod = {"containers": [{"name": "sidecar", "image": "example.com/mesh:1"}]}
        patch = json.dumps({"spec": {"template": {"spec": pod}}})
        world.kube.api.kubectl("-n", world.namespace, "patch", "deployment/team", "--type=strategic", "-p", patch)
        world.roll_out()
        world.reconcile()
        with world.without_writes():
            world.reconcile()
        containers = world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]["containers"]
        assert {container["name"] for container in containers} == {"registry", "sidecar"}


class TestRepair:
    """What drifts comes back."""

    @pytest.mark.parametrize(
        ("kind", "name", "drift"),
        [
            (DEPLOYMENT, "team", {"spec": {"replicas": 5}}),
            (DEPLOYMENT, "team", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 30}}}}),
            (SERVICE, "team", {"spec": {"selector": {"app.kubernetes.io/name": "else"}}}),
            (SERVICE_ACCOUNT, "team", {"automountServiceAccountToken": True}),
            (NETWORK_POLICY, "team", {"spec": {"ingress": [{}]}}),
            (NETWORK_POLICY, "team", {"spec": {"podSelector": {"matchLabels": {"app": "else"}}}}),
            (CONFIG_MAP, "team-ca", {"data": {"ca.crt": "another"}}),
            (SECRET, "team-config", {"data": {"config.yml": "YQ=="}}),
            (SECRET, "team-tls", {"data": {"ca.crt": "YQ=="}}),
            (PERSISTENT_VOLUME_CLAIM, "team-data", {"metadata": {"labels": {"app.kubernetes.io/part-of": "else"}}}),
            (SERVICE, "team", {"metadata": {"annotations": {"regatta.dev/desired-hash": None}}}),
        ],
        ids=lambda value: value.name if isinstance(value, Kind) else None,
    )
    def test_a_changed_child(self, world: World, kind: Kind, name: str, drift: Json) -> None:
        """Whichever it is, and whoever changed it."""
        world.create()
        world.reconcile()
        good = world.the(kind, name)
        world.kube.merge(kind, world.namespace, name, drift)
        world.reconcile()
        mended = world.the(kind, name)
        for part in ("spec", "data", "automountServiceAccountToken"):
            assert mended.get(part) == good.get(part)
        assert mended["metadata"]["labels"] == good["metadata"]["labels"]
        assert mended["metadata"].get("annotations") == good["metadata"].get("annotations")

    def test_deleted_children(self, world: World) -> None:
        """They are made anew."""
        world.create()
        world.reconcile()
        for child in CHILDREN:
            if not child.startswith("PersistentVolumeClaim"):
                world.delete(child)
        world.reconcile()
        assert world.children() == CHILDREN

    def test_what_is_desired_no_more_leaves_the_child(self, world: World) -> None:
        """A field that the spec sets no more goes, though all that is desired is there."""
        world.create({"service": {"annotations": {"example.com/load-balancer": "internal"}}})
        world.reconcile()
        world.change({"service": {"annotations": None}})
        world.reconcile()
        assert "example.com/load-balancer" not in world.the(SERVICE, "team")["metadata"]["annotations"]

    def test_services_change_their_type_and_back(self, world: World) -> None:
        """The API server picks and drops node ports."""
        world.create()
        for type_ in ("NodePort", "LoadBalancer", "ClusterIP"):
            world.change({"service": {"type": type_}})
            world.reconcile()
            assert world.the(SERVICE, "team")["spec"]["type"] == type_
            assert world.condition("Degraded")[0] == "False"


class TestPruning:
    """What nobody needs any more goes, once nobody uses it."""

    def test_only_after_the_rollout(self, world: World) -> None:
        """Pods of the template before mount the old Secrets until they are replaced."""
        world.serve()
        world.change({"tls": {"selfSigned": None, "disabled": {}}})
        world.reconcile()
        assert world.children() == CHILDREN
        world.roll_out()
        world.reconcile()
        gone = {"ConfigMap/team-ca", "Secret/team-ca", "Secret/team-tls"}
        assert world.children() == [child for child in CHILDREN if child not in gone]

    def test_a_network_policy_that_is_switched_off(self, world: World) -> None:
        """Everyone may connect to everything from then on."""
        world.serve()
        world.change({"networkPolicy": {"enabled": False}})
        world.reconcile()
        assert world.children() == [child for child in CHILDREN if child != "NetworkPolicy/team"]

    def test_never_a_claim_nor_what_only_looks_like_ours(self, world: World) -> None:
        """Labels alone make no child."""
        world.serve()
        labels = child_labels("team")
        foreign = {"metadata": {"name": "mine", "labels": labels}}
        world.kube.create(SECRET, world.namespace, "mine")
        world.kube.merge(SECRET, world.namespace, "mine", foreign)
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        world.kube.create(PERSISTENT_VOLUME_CLAIM, world.namespace, "old", spec=spec)
        world.kube.merge(PERSISTENT_VOLUME_CLAIM, world.namespace, "old", {"metadata": {"labels": labels}})
        world.reconcile()
        assert world.get(SECRET, "mine")
        assert world.get(PERSISTENT_VOLUME_CLAIM, "old")

    def test_not_what_the_spec_names_itself(self, world: World) -> None:
        """The generated login's Secret may become the user's own."""
        world.serve()
        world.change({"access": {"htpasswd": {"secretRef": {"name": "team-admin"}}}})
        world.reconcile()
        world.roll_out()
        world.reconcile()
        assert world.get(SECRET, "team-admin")
        assert world.condition("Degraded")[0] == "False"


class TestNamesOfOthers:
    """An object that isn't ours is never overwritten."""

    @pytest.mark.parametrize(
        ("kind", "name", "content"),
        [
            (SERVICE, "team", {"spec": {"ports": [{"port": 80}]}}),
            (SECRET, "team-config", {}),
            (SECRET, "team-ca", {}),
            (SECRET, "team-tls", {}),
            (SECRET, "team-admin", {}),
            (CONFIG_MAP, "team-ca", {}),
            (SERVICE_ACCOUNT, "team", {}),
            (NETWORK_POLICY, "team", {"spec": {"podSelector": {}}}),
        ],
    )
    def test_the_registry_degrades_and_heals(self, world: World, kind: Kind, name: str, content: Json) -> None:
        """It says which object, leaves it as it is, and goes on when it is gone."""
        taken = world.kube.create(kind, world.namespace, name, **content)
        world.create()
        assert world.reconcile().requeue_after
        reason, message = world.degraded()
        assert reason == "NameTaken"
        assert f"{kind.name} {name}" in message
        assert world.the(kind, name)["metadata"]["resourceVersion"] == taken["metadata"]["resourceVersion"]
        world.kube.delete(kind, world.namespace, name)
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"
        assert world.children() == CHILDREN

    def test_a_claim_of_that_name_may_be_used_on_purpose(self, world: World) -> None:
        """The message says how."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        world.kube.create(PERSISTENT_VOLUME_CLAIM, world.namespace, "team-data", spec=spec)
        world.create()
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "NameTaken"
        assert "storage.filesystem.existingClaim" in message

    def test_what_a_deleted_registry_left_is_waited_for(self, world: World) -> None:
        """The cluster removes it in its own time. The claim is taken up at once."""
        world.create()
        world.reconcile()
        volume = world.the(PERSISTENT_VOLUME_CLAIM, "team-data")["metadata"]["uid"]
        world.kube.delete(REGISTRY, world.namespace, "team")
        world.create()
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "NameTaken"
        assert "left from a deleted Registry of the same name" in message
        for child in CHILDREN:
            if not child.startswith("PersistentVolumeClaim"):
                world.delete(child)
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"
        assert world.the(PERSISTENT_VOLUME_CLAIM, "team-data")["metadata"]["uid"] == volume
