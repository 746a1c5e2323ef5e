"""What may be changed, killed or missing while clients push and pull all the time.

Two replicas on a shared volume, with users of their own. No request fails for a change that is made, nor has to be sent
again; and whatever is killed, nothing that was acknowledged is lost.
"""

import signal
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from registry_server.auth.htpasswd import entry
from tests.e2e.cluster import Cluster
from tests.e2e.harness.loading import Report, load
from tests.e2e.harness.namespaces import Json, Namespace, pod_of
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry, Login
from tests.fixtures.processes import CommandFailed

OLD, NEW = Login("ci", "the old one's"), Login("ci-2", "the new one's")
SPEC: Json = {
    "replicas": 2,
    "storage": {"filesystem": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}},
    "access": {"htpasswd": {"secretRef": {"name": "users"}}},
    "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
}
_NOTICED = 180  # seconds until a pod has seen a changed Secret: the kubelet looks each minute or so


@pytest.fixture(scope="module")
def images(new_namespace: Callable[[str], Namespace]) -> Namespace:
    """A namespace with the users and their logins."""
    namespace = new_namespace("load")
    namespace.apply(users(OLD), *(login_secret(login) for login in (OLD, NEW)))
    return namespace


@pytest.fixture(scope="module")
def team(release: Release, previous: Product, images: Namespace) -> LiveRegistry:
    """Of the version before, which the first test leaves behind."""
    release.install(previous)
    return LiveRegistry.make(images, previous, spec=SPEC)


class TestUpgrade:
    def test_of_operator_and_server_fails_no_request(
        self, release: Release, product: Product, previous: Product, team: LiveRegistry
    ) -> None:
        """Each pod is replaced meanwhile."""
        before = _uids(release.pods()) | _uids(team.pods())
        with load(team, product, secret=OLD.username) as report:
            release.upgrade(product)
            team.namespace.wait("registry/team", f"jsonpath={{.status.version}}={product.version}")
            if product.spec:
                team.apply({**SPEC, **product.spec})
            team.await_ready()
            pods = team.pods()
        assert [pod["spec"]["containers"][0]["image"] for pod in pods] == [product.server] * 2
        assert not before & (_uids(release.pods()) | _uids(pods))
        assert_faultless(report)


class TestFaults:
    def test_servers_that_are_killed_lose_nothing_they_have_acknowledged(
        self, cluster: Cluster, product: Product, team: LiveRegistry
    ) -> None:
        """All replicas at once, by `kill -9`. Clients meet failures until one serves again, and none after that."""
        pods = team.pods()
        with load(team, product, secret=OLD.username) as report:
            for pod in pods:
                cluster.kill_container(team.namespace.name, pod["metadata"]["name"])
            for pod in pods:
                restarts = pod["status"]["containerStatuses"][0]["restartCount"] + 1
                name = f"pod/{pod['metadata']['name']}"
                team.namespace.wait(name, f"jsonpath={{.status.containerStatuses[0].restartCount}}={restarts}")
                team.namespace.wait(name, "condition=Ready")
            with team.client(OLD) as client:
                client.push_random("team/data:2")
            served_again = time.time()
            with team.client(OLD) as client:
                client.validate("team/data:2")
        assert report.lost == 0
        assert [failure for failure in report.failures if failure["time"] > served_again] == []
        assert _uids(team.pods()) == _uids(pods)

    def test_a_kubelet_that_restarts_and_an_operator_that_is_gone_go_unnoticed(
        self, cluster: Cluster, product: Product, team: LiveRegistry, release: Release
    ) -> None:
        containers = _containers(team)
        with load(team, product, secret=OLD.username) as report:
            cluster.restart("kubelet", signal.SIGKILL)
            # It works again once it runs a pod.
            team.namespace.output(pod_of("after-kubelet", product.server, "python", "-c", "pass"))
            deployment = "deployment/regatta-operator"
            release.namespace.kubectl("scale", deployment, "--replicas=0")
            for name in _names(release.pods()):
                release.namespace.wait(f"pod/{name}", "delete")
            with team.client(OLD) as client:
                client.push_random("team/data:3")
                client.validate("team/data:3")
            release.namespace.kubectl("scale", deployment, "--replicas=1")
            release.namespace.kubectl("rollout", "status", deployment, "--timeout=120s")
        # The cluster's DNS may be a pod of that node, too: a name that nobody tells is no fault of the registry's.
        report.failures = [failure for failure in report.failures if "gaierror" not in failure["reason"]]
        assert_faultless(report)
        assert _containers(team) == containers

    def test_a_registry_that_is_deleted_and_made_again_has_its_content(
        self, product: Product, team: LiveRegistry
    ) -> None:
        """With a certificate authority and pods of its own, on the same volume."""
        with team.client(OLD) as client:
            client.push_random("team/data:4")
        volume = team.namespace.get("pvc", "team-data")["spec"]["volumeName"]
        before = _uids(team.pods())
        team.delete()
        again = LiveRegistry.make(team.namespace, product, spec=SPEC)
        assert team.namespace.get("pvc", "team-data")["spec"]["volumeName"] == volume
        assert not before & _uids(again.pods())
        with again.client(OLD) as client:
            client.validate("team/data:4")


class TestRotation:
    def test_of_certificate_and_password_fails_no_request(
        self, cluster: Cluster, product: Product, team: LiveRegistry
    ) -> None:
        """A new user is let in beside the old one, which is shut out when all clients have moved."""
        pods, certificate = _uids(team.pods()), served_certificate(team)
        with ExitStack() as old_clients:
            old = old_clients.enter_context(load(team, product, secret=OLD.username, name="old-clients"))
            team.namespace.kubectl("delete", "secret", "team-tls")
            team.namespace.apply(users(OLD, NEW))
            await_log(team, "the certificate changed", "it has 2 user(s) now")
            assert served_certificate(team) != certificate
            with load(team, product, secret=NEW.username, name="new-clients") as new:
                old_clients.close()
                team.namespace.apply(users(NEW))
                await_log(team, "it has 1 user(s) now")
                with team.client(OLD) as refused, pytest.raises(CommandFailed, match="401 Unauthorized"):
                    refused.push_random("team/data:1")
                with team.client(NEW) as admitted:
                    admitted.push_random("team/data:1")
        for report in (old, new):
            assert_faultless(report)
        assert _uids(team.pods()) == pods


def users(*logins: Login) -> Json:
    """The Secret with the registry's users."""
    lines = "".join(f"{entry(login.username, login.password, cost=4)}\n" for login in logins)
    return _secret("users", htpasswd=lines)


def login_secret(login: Login) -> Json:
    """A Secret by which clients log in."""
    return _secret(login.username, username=login.username, password=login.password)


def served_certificate(registry: LiveRegistry) -> str:
    """What a new connection meets (PEM)."""
    with registry.namespace.cluster.reach(registry.namespace.name, registry.name, 5000) as address:
        return ssl.get_server_certificate(address, timeout=30)


def await_log(registry: LiveRegistry, *messages: str) -> None:
    """Waits until each replica has said each of these, in as many words."""
    waiting = {(name, message) for name in _names(registry.pods()) for message in messages}
    deadline = time.monotonic() + _NOTICED
    while waiting := {
        (name, message) for name, message in waiting if message not in registry.namespace.kubectl("logs", name)
    }:
        assert time.monotonic() < deadline, f"not noticed: {waiting}"
        time.sleep(1)


def assert_faultless(report: Report) -> None:
    assert report.failures == []
    assert report.lost == 0
    # A request that had to be sent again met a connection that was closed under it.
    assert report.resent == 0
    assert report.pushed > 10
    assert report.pulled > 10


def _secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def _names(pods: list[Json]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def _uids(pods: list[Json]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _containers(registry: LiveRegistry) -> set[str]:
    return {pod["status"]["containerStatuses"][0]["containerID"] for pod in registry.pods()}
