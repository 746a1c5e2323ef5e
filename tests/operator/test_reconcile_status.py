"""The status of a Registry: conditions, times, Events, and no word of a secret."""

from registry_operator.api.kinds import DEPLOYMENT, REGISTRY
from tests.operator.reconcile_world import World, condition


class TestConditions:
    """Ready, Progressing and Degraded on the way of a Registry."""

    def test_while_it_starts(self, world: World) -> None:
        """It isn't Ready before the Deployment is available."""
        world.create()
        world.reconcile()
        world.roll_out(updatedReplicas=1, availableReplicas=0, conditions=[condition("Available", "False")])
        world.claim_is("team-data", phase="Bound")
        world.reconcile()
        assert world.condition("Ready") == ("False", "Unavailable", "0 of 1 replicas available, 1 up to date")
        assert world.condition("Progressing")[:2] == ("True", "RollingOut")
        assert world.condition("Degraded") == ("False", "AsExpected", "")

    def test_when_it_serves(self, world: World) -> None:
        """With everything that a person wants to know."""
        world.serve()
        address = f"team.{world.namespace}.svc:5000"
        assert world.condition("Ready") == ("True", "Available", f"serves at {address}")
        assert world.condition("Progressing")[:2] == ("False", "RolledOut")
        status = world.status()
        assert status["observedGeneration"] == 1
        assert status["address"] == address
        assert address in status["addresses"]
        assert status["version"]
        row = world.kube.api.kubectl("-n", world.namespace, "get", "reg", "team", "--no-headers").split()
        assert row[:5] == ["team", "True", address, "10Gi", status["version"]]

    def test_while_a_change_rolls_out(self, world: World) -> None:
        """It may serve and progress at once."""
        world.serve({"storage": {"filesystem": {"accessModes": ["ReadWriteMany"]}}, "replicas": 2})
        world.change({"log": {"level": "debug"}})
        world.reconcile()
        assert world.condition("Progressing") == ("True", "RollingOut", "waits for the Deployment to be taken up")
        world.roll_out(replicas=3, updatedReplicas=1)
        world.reconcile()
        assert world.condition("Ready")[0] == "True"
        assert world.condition("Progressing") == ("True", "RollingOut", "2 of 2 replicas available, 1 up to date")
        assert world.status()["observedGeneration"] == 2

    def test_when_the_rollout_is_stuck(self, world: World) -> None:
        """It says what the Deployment says, and where to look."""
        world.create()
        world.reconcile()
        stuck = condition(
            "Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet team-1 has timed out progressing."
        )
        world.roll_out(availableReplicas=0, conditions=[condition("Available", "False"), stuck])
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "RolloutStuck"
        assert "ReplicaSet team-1 has timed out progressing." in message
        assert f"kubectl -n {world.namespace} describe pods -l regatta.dev/registry=team" in message
        assert world.condition("Ready")[:2] == ("False", "RolloutStuck")

    def test_when_pods_are_refused(self, world: World) -> None:
        """By a quota, say."""
        world.create()
        world.reconcile()
        refused = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota: team")
        world.roll_out(availableReplicas=0, conditions=[condition("Available", "False"), refused])
        world.reconcile()
        assert world.degraded() == ("RolloutStuck", "exceeded quota: team")

    def test_when_it_is_stopped(self, world: World) -> None:
        """On purpose: not Ready, and nothing is wrong."""
        world.serve()
        world.change({"replicas": 0})
        world.reconcile()
        world.roll_out()
        world.reconcile()
        assert world.condition("Ready") == ("False", "Stopped", "stopped: spec.replicas is 0")
        assert world.condition("Degraded")[0] == "False"

    def test_when_the_deployment_goes(self, world: World) -> None:
        """Ready returns to False."""
        world.serve()
        world.kube.delete(DEPLOYMENT, world.namespace, "team")
        world.reconcile()
        assert world.condition("Ready")[0] == "False"

    def test_when_the_cluster_refuses_a_child(self, world: World) -> None:
        """Its words are handed on."""
        terms = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
        world.create({"scheduling": {"affinity": terms}})
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "Rejected"
        assert "the cluster refused Deployment team:" in message
        assert "nodeSelectorTerms: Required value" in message

    def test_all_faults_are_told_at_once(self, world: World) -> None:
        """Nobody likes to find the second after the first."""
        world.create(
            {
                "tls": {"secretRef": {"name": "certificate"}},
                "access": {"htpasswd": {"secretRef": {"name": "users"}}},
                "storage": {"filesystem": {"existingClaim": "images"}},
            }
        )
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "CertificateMissing"
        for words in ("no Secret certificate", "no Secret users", "no PersistentVolumeClaim images"):
            assert words in message


class TestTimes:
    """A condition's time is that of its last turn."""

    def test_it_changes_with_the_status_alone(self, world: World) -> None:
        """Not with the message, nor with the generation."""
        world.create()
        world.reconcile()
        first = world.kube.condition(world.namespace, "team", "Ready")
        world.pass_time(minutes=5)
        world.claim_is("team-data", phase="Bound")
        world.change({"log": {"level": "debug"}})
        world.reconcile()
        second = world.kube.condition(world.namespace, "team", "Ready")
        assert second["message"] != first["message"]
        assert second["observedGeneration"] == 2
        assert second["lastTransitionTime"] == first["lastTransitionTime"] == "2026-01-01T00:00:00Z"
        world.roll_out()
        world.reconcile()
        third = world.kube.condition(world.namespace, "team", "Ready")
        assert third["lastTransitionTime"] == "2026-01-01T00:05:00Z"


class TestEvents:
    """Nothing aggregates Events: they tell of turns, and only once."""

    def test_on_the_way_up(self, world: World) -> None:
        """One, when it serves."""
        world.serve()
        world.reconcile()
        assert world.events() == [("Normal", "Available")]

    def test_on_the_way_down_and_up_again(self, world: World) -> None:
        """What went wrong, what it meant, and that it is over."""
        world.serve()
        stuck = condition("Progressing", "False", "ProgressDeadlineExceeded")
        world.roll_out(availableReplicas=0, conditions=[condition("Available", "False"), stuck])
        world.reconcile()
        world.pass_time(minutes=1)
        world.reconcile()
        world.roll_out()
        world.reconcile()
        assert sorted(world.events()) == [
            ("Normal", "Available"),
            ("Normal", "Available"),
            ("Normal", "Recovered"),
            ("Warning", "RolloutStuck"),
            ("Warning", "RolloutStuck"),
        ]

    def test_of_another_fault(self, world: World) -> None:
        """The reason counts, not only that there is one."""
        world.create({"access": {"htpasswd": {"secretRef": {"name": "users"}}}})
        world.reconcile()
        world.secret("users", htpasswd="broken")
        world.reconcile()
        world.reconcile()
        assert world.events() == [("Warning", "UsersMissing"), ("Warning", "UsersInvalid")]


class TestStatusOfOthers:
    """Who else writes to the status is neither fought nor followed."""

    def test_a_condition_that_was_overwritten_comes_back(self, world: World) -> None:
        """The status is ours."""
        world.serve()
        world.kube.merge(REGISTRY, world.namespace, "team", {"status": {"address": "evil.example.com"}}, "status")
        world.reconcile()
        assert world.status()["address"] == f"team.{world.namespace}.svc:5000"
        with world.without_writes():
            world.reconcile()
