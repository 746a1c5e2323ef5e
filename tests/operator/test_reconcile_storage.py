"""The volume: made, grown and kept, or given and checked."""

import json

import pytest

from registry_operator.api.kinds import DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, REGISTRY, STORAGE_CLASS
from tests.operator.kube import Json
from tests.operator.reconcile_world import World


def claim(world: World, name: str, *modes: str) -> Json:
    """A person creates a claim."""
    spec = {"accessModes": list(modes), "resources": {"requests": {"storage": "5Gi"}}}
    return world.kube.create(PERSISTENT_VOLUME_CLAIM, world.namespace, name, spec=spec)


EXISTING = {"storage": {"filesystem": {"existingClaim": "images"}}}


class TestOwnClaim:
    """A claim is made, and outlives the Registry."""

    def test_the_status_tells_what_was_asked_for_then_what_there_is(self, world: World) -> None:
        """A volume may be larger than the claim."""
        world.create({"storage": {"filesystem": {"size": "3Gi"}}})
        world.reconcile()
        assert world.status()["storage"] == {"claimName": "team-data", "size": "3Gi", "phase": "Pending"}
        world.claim_is("team-data", phase="Bound", capacity={"storage": "4Gi"}, accessModes=["ReadWriteOnce"])
        world.reconcile()
        assert world.status()["storage"] == {"claimName": "team-data", "size": "4Gi", "phase": "Bound"}

    def test_a_rollout_that_waits_for_its_volume_says_so(self, world: World) -> None:
        """The Deployment itself doesn't know why."""
        world.create()
        world.reconcile()
        message = world.condition("Progressing")[2]
        assert message.endswith("waits for a volume: PersistentVolumeClaim team-data is Pending")

    def test_a_class_that_does_not_exist_is_named(self, world: World) -> None:
        """And waited for."""
        world.create({"storage": {"filesystem": {"storageClassName": f"fast-{world.namespace}"}}})
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "StorageClassMissing"
        assert f"storage class fast-{world.namespace}, which doesn't exist" in message
        metadata = {"metadata": {"name": f"fast-{world.namespace}"}, "provisioner": "example.com/none"}
        manifest = {"apiVersion": STORAGE_CLASS.api_version, "kind": STORAGE_CLASS.name, **metadata}
        world.kube.api.kubectl("create", "-f", "-", input=json.dumps(manifest))
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"

    def test_growth_that_the_class_does_not_allow_is_the_clusters_word(self, world: World) -> None:
        """Its message is handed on, and what runs goes on."""
        world.serve()
        world.claim_is("team-data", phase="Bound", capacity={"storage": "10Gi"}, accessModes=["ReadWriteOnce"])
        world.change({"storage": {"filesystem": {"size": "20Gi"}}})
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "Rejected"
        assert message.startswith("the cluster refused PersistentVolumeClaim team-data:")
        assert world.condition("Ready")[0] == "True"

    @pytest.mark.parametrize(
        ("modes", "strategy"), [(["ReadWriteOnce"], "Recreate"), (["ReadWriteMany"], "RollingUpdate")]
    )
    def test_pods_that_cannot_share_it_replace_each_other(self, world: World, modes: list[str], strategy: str) -> None:
        """Where they can, nothing is down meanwhile."""
        world.create({"storage": {"filesystem": {"accessModes": modes}}})
        world.reconcile()
        assert world.the(DEPLOYMENT, "team")["spec"]["strategy"]["type"] == strategy

    def test_one_that_is_being_deleted_is_cried_out_for(self, world: World) -> None:
        """Its content goes with its last pod."""
        world.serve()
        finalizers = {"metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}}
        world.kube.merge(PERSISTENT_VOLUME_CLAIM, world.namespace, "team-data", finalizers)
        world.kube.delete(PERSISTENT_VOLUME_CLAIM, world.namespace, "team-data")
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "ClaimDeleted"
        assert "save the content now" in message

    def test_a_lost_volume_is_told(self, world: World) -> None:
        """A person must restore it."""
        world.serve()
        world.claim_is("team-data", phase="Lost")
        world.reconcile()
        assert world.degraded()[0] == "ClaimLost"


class TestExistingClaim:
    """A claim that is there already is used and left as it is."""

    def test_it_is_mounted_and_never_touched(self, world: World) -> None:
        """Not even labelled."""
        claim(world, "images", "ReadWriteOnce")
        before = world.the(PERSISTENT_VOLUME_CLAIM, "images")
        world.serve(EXISTING)
        volumes = world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]["volumes"]
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "images"}} in volumes
        assert world.the(PERSISTENT_VOLUME_CLAIM, "images") == before
        assert world.get(PERSISTENT_VOLUME_CLAIM, "team-data") is None
        assert world.status()["storage"]["claimName"] == "images"

    def test_a_missing_one_is_waited_for(self, world: World) -> None:
        """It is never made: that would hide a mistake in its name."""
        world.create(EXISTING)
        world.reconcile()
        assert world.degraded() == (
            "ClaimMissing",
            "storage.filesystem.existingClaim: there is no PersistentVolumeClaim images: create it",
        )
        claim(world, "images", "ReadWriteOnce")
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"

    def test_its_modes_decide_on_replicas(self, world: World) -> None:
        """Which the CRD alone can't know."""
        claim(world, "images", "ReadWriteOnce")
        world.create({**EXISTING, "replicas": 2})
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "ClaimNotShared"
        assert "PersistentVolumeClaim images is ReadWriteOnce: set replicas to 1" in message
        world.change({"replicas": 1})
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"
        assert world.the(DEPLOYMENT, "team")["spec"]["strategy"]["type"] == "Recreate"

    def test_one_for_several_nodes_rolls(self, world: World) -> None:
        """With as many replicas as one likes."""
        claim(world, "images", "ReadWriteMany")
        world.create({**EXISTING, "replicas": 2})
        world.reconcile()
        assert world.the(DEPLOYMENT, "team")["spec"]["strategy"]["type"] == "RollingUpdate"

    def test_one_that_can_only_be_read_is_refused(self, world: World) -> None:
        """A registry writes."""
        claim(world, "images", "ReadOnlyMany")
        world.create(EXISTING)
        world.reconcile()
        assert world.degraded()[0] == "ClaimReadOnly"

    def test_it_outlives_the_registry(self, world: World) -> None:
        """Nobody owns it."""
        claim(world, "images", "ReadWriteOnce")
        world.serve(EXISTING)
        world.kube.delete(REGISTRY, world.namespace, "team")
        world.reconcile()
        assert "ownerReferences" not in world.the(PERSISTENT_VOLUME_CLAIM, "images")["metadata"]
