"""The server's users: a generated login, or a Secret that is given and checked."""

import bcrypt
import pytest

from registry_operator.api.kinds import DEPLOYMENT, SECRET
from registry_server.auth.htpasswd import check_password, entry
from tests.operator.reconcile_world import World

BY_SECRET = {"access": {"htpasswd": {"secretRef": {"name": "users"}}}}


def matches(login: dict[str, str]) -> bool:
    """Whether the server lets this login in."""
    user, _, hashed = login["htpasswd"].partition(":")
    return user == login["username"] and check_password(login["password"].encode(), hashed.encode())


class TestGeneratedLogin:
    """Without users of their own, people get a login that may do everything."""

    def test_it_works_and_is_strong(self, world: World) -> None:
        """The Secret holds what a person needs, and the hash that the server needs."""
        world.serve()
        login = world.data("team-admin")
        assert matches(login)
        assert login["username"] == "admin"
        assert len(login["password"]) >= 24
        assert world.status()["login"] == {"secretName": "team-admin"}

    def test_pods_see_the_hash_alone(self, world: World) -> None:
        """The password stays where it is."""
        world.serve()
        volumes = world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]["volumes"]
        (volume,) = (volume for volume in volumes if volume.get("secret", {}).get("secretName") == "team-admin")
        assert volume["secret"]["items"] == [{"key": "htpasswd", "path": "htpasswd"}]

    def test_the_password_is_nowhere_else(self, world: World) -> None:
        """Not in the status, the Events, or another child."""
        world.serve()
        password = world.data("team-admin")["password"]
        everything = world.kube.api.kubectl(
            "-n", world.namespace, "get", "registries,events,deployments,cm", "-o", "yaml"
        )
        assert password not in everything
        assert password not in str(world.data("team-config"))

    def test_every_registry_has_its_own(self, world: World) -> None:
        """A login opens one door."""
        for name in ("one", "two"):
            world.create(name=name)
            world.reconcile(name)
        assert world.data("one-admin")["password"] != world.data("two-admin")["password"]

    def test_a_person_may_set_the_password(self, world: World) -> None:
        """The hash follows, and the server reads it again: nothing rolls."""
        world.serve()
        generation = world.the(DEPLOYMENT, "team")["metadata"]["generation"]
        world.secret("team-admin", password="correct horse battery staple")
        world.reconcile()
        login = world.data("team-admin")
        assert login["password"] == "correct horse battery staple"
        assert matches(login)
        assert world.the(DEPLOYMENT, "team")["metadata"]["generation"] == generation
        with world.without_writes():
            world.reconcile()

    def test_an_unchanged_one_costs_no_bcrypt(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thousand Registries are looked at within seconds of a restart; a bcrypt takes a twentieth of one."""
        world.serve()
        for function in ("checkpw", "hashpw"):
            monkeypatch.setattr(bcrypt, function, lambda *_: pytest.fail("bcrypt was run"))
        world.reconcile()

    @pytest.mark.parametrize("password", ["", "x" * 73])
    def test_what_can_be_no_password_is_replaced(self, world: World, password: str) -> None:
        """bcrypt takes 1 to 72 bytes."""
        world.serve()
        world.secret("team-admin", password=password)
        world.reconcile()
        assert matches(world.data("team-admin"))

    @pytest.mark.parametrize("damage", [{"htpasswd": None}, {"username": "cm9vdA=="}, {"htpasswd": "bm9uc2Vuc2U="}])
    def test_a_damaged_secret_is_mended(self, world: World, damage: dict[str, str]) -> None:
        """It holds a login that works again."""
        world.serve()
        world.kube.merge(SECRET, world.namespace, "team-admin", {"data": damage})
        world.reconcile()
        login = world.data("team-admin")
        assert matches(login)
        assert login["username"] == "admin"

    def test_deleting_the_secret_changes_the_password(self, world: World) -> None:
        """The simplest rotation."""
        world.serve()
        before = world.data("team-admin")
        world.kube.delete(SECRET, world.namespace, "team-admin")
        world.reconcile()
        after = world.data("team-admin")
        assert matches(after)
        assert after["password"] != before["password"]


class TestGivenUsers:
    """An htpasswd Secret is checked before it is used."""

    def test_it_is_mounted(self, world: World) -> None:
        """And no login is made."""
        world.secret("users", htpasswd=entry("ci", "secret", 4))
        world.serve(BY_SECRET)
        assert "Secret/team-admin" not in world.children()
        assert "login" not in world.status()
        assert world.condition("Ready")[0] == "True"

    def test_other_users_roll_nothing(self, world: World) -> None:
        """The server reads the file again; the operator writes nothing at all."""
        world.secret("users", htpasswd=entry("ci", "secret", 4))
        world.serve(BY_SECRET)
        world.secret("users", htpasswd=entry("robot", "secret", 4))
        with world.without_writes():
            world.reconcile()

    @pytest.mark.parametrize(
        ("data", "reason", "words"),
        [
            (None, "UsersMissing", "there is no Secret users: create it with the key htpasswd"),
            ({"auth": "x"}, "UsersInvalid", "Secret users has no key htpasswd"),
            ({"htpasswd": "# nobody\n"}, "UsersInvalid", "htpasswd names no user"),
            ({"htpasswd": "ci:$apr1$abc$T0pS3cretHash"}, "UsersInvalid", "htpasswd:1: user ci has MD5 hash"),
            ({"htpasswd": b"\xff\xfe"}, "UsersInvalid", "isn't a text in UTF-8"),
        ],
    )
    def test_a_fault_is_named_and_heals(
        self, world: World, data: dict[str, str | bytes] | None, reason: str, words: str
    ) -> None:
        """With the user, never with the hash."""
        if data is not None:
            world.secret("users", **data)
        world.create(BY_SECRET)
        world.reconcile()
        found, message = world.degraded()
        assert found == reason
        assert words in message
        assert "T0pS3cretHash" not in str(world.status())
        world.secret("users", htpasswd=entry("ci", "secret", 4))
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"

    def test_a_fault_leaves_what_runs_alone(self, world: World) -> None:
        """The server goes on with the users it has read, and the Registry stays Ready."""
        world.secret("users", htpasswd=entry("ci", "secret", 4))
        world.serve(BY_SECRET)
        deployment = world.the(DEPLOYMENT, "team")
        world.secret("users", htpasswd="broken")
        world.change({"replicas": 0})
        world.reconcile()
        assert world.degraded()[0] == "UsersInvalid"
        assert world.condition("Ready")[0] == "True"
        assert world.the(DEPLOYMENT, "team") == deployment
