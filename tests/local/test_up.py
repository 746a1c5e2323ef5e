"""`local up`, end to end: the real operator, the real server, real clients."""

import base64
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import httpx
import pytest

from tests.fixtures.docker import Dockerd
from tests.fixtures.images import make_oci_layout
from tests.fixtures.processes import CommandFailed, free_port, run
from tests.local.running import Up, await_end, await_true, listens, local, registry, session, up, write


def htpasswd(user: str, password: str) -> dict[str, object]:
    """A Secret with one user."""
    line = f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "users"}, "stringData": {"htpasswd": line}}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    directory = tmp_path_factory.mktemp("ready")
    manifest = write(directory / "team.yaml", registry(port=5000))
    with up(manifest, state=directory / "state", args=("--port", str(free_port()), "--prove")) as running:
        running.until("^ready: https://localhost:")
        running.until("curl")
        yield running


class TestReady:
    """One registry, from nothing to the first pull."""

    def test_it_is_proven_before_it_is_announced(self, team: Up) -> None:
        """The lines say so, in this order."""
        proven = next(index for index, line in enumerate(team.lines) if "was pushed and pulled" in line)
        ready = next(index for index, line in enumerate(team.lines) if line.startswith("ready: "))
        assert proven < ready

    def test_port_replaces_that_of_the_manifest(self, team: Up) -> None:
        """`--port` is the first Registry's."""
        address = team.registry()["address"]
        assert f"ready: https://{address}" in team.lines
        assert not address.endswith(":5000")

    def test_a_login_is_required(self, team: Up) -> None:
        """Without one the answer is 401 with a challenge, with the generated one it is 200."""
        with team.client() as stranger:
            refused = stranger.get("/v2/")
            assert refused.status_code == 401
            assert "WWW-Authenticate" in refused.headers
        with team.client(login=team.admin()) as admin:
            assert admin.get("/v2/").status_code == 200

    def test_the_lines_to_paste_work(self, team: Up) -> None:
        """The printed curl command shows the catalog."""
        curl = next(line for line in team.lines if " curl " in line).partition("curl")[2]
        assert run("sh", "-c", f"curl -sSf {curl}").startswith('{"repositories"')

    def test_no_secret_is_printed_or_passed_as_an_argument(self, team: Up) -> None:
        """Not the password, neither in the output nor in the command line of a process."""
        password = team.admin()[1]
        assert len(password) > 15
        assert not any(password in line for line in team.lines)
        for pid in [team.pid, *session(team.registry()["pid"])]:
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()

    def test_what_is_secret_is_the_owners_alone(self, team: Up) -> None:
        """No one else gets in, and the files that may hold secrets are 0600 all the same."""
        assert team.state.stat().st_mode & 0o777 == 0o700
        for directory in ("objects", "registries"):
            for path in (team.state / directory).rglob("*"):
                assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path

    def test_skopeo_pushes_and_pulls(self, team: Up, tmp_path: Path, skopeo: Path) -> None:
        """An image comes back with the digest it went with."""
        pushed = make_oci_layout(tmp_path / "image", [b"hello", 100_000])
        image = f"docker://{team.registry()['address']}/app:1"
        user, password = team.admin()
        ca = tmp_path / "certs"
        ca.mkdir()
        (ca / "ca.crt").write_bytes((team.handout() / "ca.crt").read_bytes())
        login = ("--dest-creds", f"{user}:{password}", "--dest-cert-dir", ca)
        run(skopeo, "--insecure-policy", "copy", *login, f"oci:{tmp_path / 'image'}:latest", image)
        login = ("--creds", f"{user}:{password}", "--cert-dir", ca)
        assert run(skopeo, "inspect", *login, "--format", "{{.Digest}}", image).strip() == pushed.digest
        with pytest.raises(CommandFailed, match=r"(?i)unauthorized|authentication required"):
            run(skopeo, "inspect", "--no-creds", "--cert-dir", ca, image)

    def test_docker_by_the_lines_to_paste(self, team: Up, dockerd: Dockerd) -> None:
        """`docker login` as printed, then push and pull: nothing else is to be set up."""
        line = next(line for line in team.lines if "docker login" in line).partition("docker login")[2]
        arguments, _, password = line.partition("<")
        dockerd.docker("login", *arguments.split(), input=Path(password.strip()).read_text())
        image = f"{team.registry()['address']}/team/busybox:1"
        dockerd.import_busybox_image(image)
        dockerd.docker("push", image)
        dockerd.docker("rmi", image)
        dockerd.docker("pull", image)
        assert dockerd.docker("run", "--rm", "--network", "none", image, "echo", "pulled").strip() == "pulled"

    def test_a_second_up_is_refused(self, team: Up, tmp_path: Path) -> None:
        """Two on one state directory would fight; the message says what to do."""
        refused = local("up", write(tmp_path / "other.yaml", registry(port=1)), "--state", team.state)
        assert refused.returncode == 1
        assert f"another `local up` (process {team.pid})" in refused.stderr
        assert "local down" in refused.stderr

    def test_status_shows_it(self, team: Up) -> None:
        """The table for people holds what the JSON for programs does."""
        seen = team.registry()
        assert seen["ready"] is True
        assert seen["certificate_expires"] > "2026"
        assert Path(seen["storage"]).is_dir()
        table = local("status", "--state", team.state).stdout
        assert all(
            part in table for part in ("default/team", "yes", seen["address"], str(seen["pid"]), seen["storage"])
        )

    def test_logs_shows_what_the_server_says(self, team: Up) -> None:
        """From the beginning, or the end of it."""
        everything = local("logs", "team", "--state", team.state).stdout.splitlines()
        assert "listens on" in everything[0]
        assert local("logs", "default/team", "--tail", 1, "--state", team.state).stdout.splitlines() == everything[-1:]

    def test_logs_follows(self, team: Up) -> None:
        """A request that is made now is seen."""
        operator = Path(sys.executable).with_name("registry-operator")
        command = [operator, "local", "logs", "team", "-f", "--tail", "1", "--state", team.state]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            try:
                assert following.stdout.readline()  # from here on it follows
                with team.client() as stranger:
                    await_true(lambda: stranger.get("/v2/", headers={"User-Agent": "follow-me"}).status_code == 401)
                    line = next(line for line in following.stdout if "follow-me" in line)
                assert '"status": 401' in line
            finally:
                following.send_signal(signal.SIGINT)

    def test_logs_of_an_unknown_registry(self, team: Up) -> None:
        """The message lists those there are."""
        refused = local("logs", "nope", "--state", team.state)
        assert refused.returncode == 1
        assert "no Registry is called nope" in refused.stderr
        assert "default/team" in refused.stderr


class TestEdits:
    """What changes in the files takes effect while it runs."""

    def test_a_changed_spec_is_rolled_out(self, tmp_path: Path) -> None:
        """Another level of the log takes another process."""
        port = free_port()
        manifest = write(tmp_path / "team.yaml", registry(port=port))
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            pid = running.registry()["pid"]
            write(manifest, registry(port=port, log={"level": "debug"}))
            running.until("^ready: ")
            assert running.registry()["pid"] != pid

    def test_access_changes_without_a_restart(self, tmp_path: Path) -> None:
        """`anonymous: pull` turns a private registry into a public one while the same process goes on."""
        port = free_port()
        manifest = write(tmp_path / "team.yaml", registry(port=port))
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            pid = running.registry()["pid"]
            with running.client() as stranger:
                assert stranger.get("/v2/app/tags/list").status_code == 401
                write(manifest, registry(port=port, access={"anonymous": "pull"}))
                await_true(lambda: stranger.get("/v2/app/tags/list").status_code == 404)
            assert running.registry()["pid"] == pid

    def test_users_are_read_again_without_a_restart(self, tmp_path: Path) -> None:
        """A new password is good while the same process goes on, and the old one is not."""
        private = registry(port=free_port(), access={"htpasswd": {"secretRef": {"name": "users"}}})
        manifest = write(tmp_path / "team.yaml", private, htpasswd("ci", "old"))
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            pid = running.registry()["pid"]
            with running.client(login=("ci", "old")) as old, running.client(login=("ci", "new")) as new:
                assert old.get("/v2/").status_code == 200
                assert new.get("/v2/").status_code == 401
                write(manifest, private, htpasswd("ci", "new"))
                await_true(lambda: new.get("/v2/").status_code == 200)
                await_true(lambda: old.get("/v2/").status_code == 401)  # of another worker, perhaps
            assert running.registry()["pid"] == pid

    def test_an_invalid_edit_leaves_things_as_they_are(self, tmp_path: Path) -> None:
        """It is said, and the registry serves on; the next valid edit counts."""
        port = free_port()
        manifest = write(tmp_path / "team.yaml", registry(port=port))
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            pid = running.registry()["pid"]
            write(manifest, registry(port=port, storage={"filesystem": {"size": "1Gi"}}))
            running.until("size can't shrink")
            assert running.registry()["pid"] == pid
            write(manifest, registry(port=port, storage={"filesystem": {"size": "20Gi"}}, log={"level": "debug"}))
            running.until("^ready: ")

    def test_a_removed_manifest_ends_the_process_and_keeps_the_content(self, tmp_path: Path) -> None:
        """The directory of the volume is still there."""
        directory = tmp_path / "manifests"
        directory.mkdir()
        port = free_port()
        doomed = write(directory / "b.yaml", registry("b", port=port))
        write(directory / "a.yaml", registry("a", port=free_port()))
        with up(directory, state=tmp_path / "state") as running:
            running.until("^ready: ")
            running.until("^ready: ")
            seen = running.registry("b")
            processes = session(seen["pid"])
            doomed.unlink()
            running.until("^b: Registry deleted")
            await_end(processes)
            assert not listens(port)
            assert Path(seen["storage"]).is_dir()
            assert running.registry("a")["ready"]


def test_garbage_is_collected_at_its_interval(tmp_path: Path) -> None:
    """As a Registry asks for it. The test makes the content old, and the interval over."""
    spec = {"garbageCollection": {"interval": "1m"}, "tls": {"disabled": {}}}
    with up(write(tmp_path / "team.yaml", registry(port=free_port(), **spec)), state=tmp_path / "state") as running:
        running.until("^ready: ")
        shown, content = running.registry(), b"nothing refers to this"
        data, digest = Path(shown["storage"]), hashlib.sha256(content).hexdigest()
        begun = data / ".regatta/runs/garbage-collect"
        await_true(begun.exists)
        query = {"digest": f"sha256:{digest}"}
        with httpx.Client(base_url=f"http://{shown['address']}", auth=running.admin(), trust_env=False) as client:
            assert client.post("/v2/app/blobs/uploads/", params=query, content=content).status_code == 201
        blob = data / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
        for path in (blob, begun):
            os.utime(path, (1, 1))
        await_true((data / f".regatta/trash/sha256/{digest[:2]}/{digest}/data").exists)
        assert not blob.exists()


def test_a_registry_is_backed_up_to_a_claim_and_another_begins_with_that(tmp_path: Path) -> None:
    """Signed, at once; the claim is a directory that outlives both."""
    backups = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "backups"}, "spec": {}}
    key = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "key"}, "stringData": {"key": "0123456789abcdef"}}
    signed = {"signingKey": {"name": "key"}}
    schedule = {"schedule": "15 2 * * *", "timeZone": "Europe/Berlin", "immediate": True}
    claim = {"name": "backups"}
    plain = {"tls": {"disabled": {}}}
    old = registry("old", port=free_port(), backup={"destination": {"claim": claim}, **schedule, **signed}, **plain)
    source = {"claim": {**claim, "path": "old"}}
    new = registry("new", port=free_port(), bootstrap={"source": source, **signed}, **plain)
    file = write(tmp_path / "both.yaml", backups, key, old, new)
    with up(file, state=tmp_path / "state") as running:
        # The new one waits for a run, and serves once it is there.
        running.until("^ready: .*")
        running.until("^ready: .*")
        folder = tmp_path / "state/data/default/backups/old/.regatta/backups"
        assert [json.loads(run.read_text())["signature"] is not None for run in folder.iterdir()] == [True]
        origin = Path(running.registry("new")["storage"]) / ".regatta/bootstrap"
        run = next(folder.iterdir()).name
        assert json.loads(origin.read_text()) == {"run": run, "complete": True}
        await_true(lambda: running.registry("old")["last_backup"] is not None)
        backup = {"backup": {"name": f"old-{run.lower()}"}, **signed}
        write(file, backups, key, old, new, registry("again", port=free_port(), bootstrap=backup, **plain))
        running.until("^ready: .*")
        origin = Path(running.registry("again")["storage"]) / ".regatta/bootstrap"
        assert json.loads(origin.read_text()) == {"run": run, "complete": True}


class TestSeveral:
    """Registries do not depend on one another."""

    def test_two_from_a_directory(self, tmp_path: Path) -> None:
        """Each has its own address, login and process."""
        for name in ("a", "b"):
            write(tmp_path / f"{name}.yaml", registry(name, port=free_port()))
        with up(tmp_path, state=tmp_path / "state", args=("--prove",)) as running:
            running.until("^ready: ")
            running.until("^ready: ")
            assert running.registry("a")["pid"] != running.registry("b")["pid"]
            with (
                running.client("a", login=running.admin("a")) as own,
                running.client("a", login=running.admin("b")) as other,
            ):
                assert own.get("/v2/").status_code == 200
                assert other.get("/v2/").status_code == 401
            assert running.stop() == 0

    def test_a_taken_port_degrades_that_registry_alone(self, tmp_path: Path) -> None:
        """The message names the port and what to do; the registry heals as soon as the port is free."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            write(tmp_path / "a.yaml", registry("a", port=port))
            write(tmp_path / "b.yaml", registry("b", port=free_port()))
            with up(tmp_path, state=tmp_path / "state") as running:
                running.until("^ready: ")
                message = running.registry("a")["message"]
                assert f"port {port}" in message
                assert "choose another port with spec.service.port" in message
                assert running.registry("b")["ready"]
                taken.close()
                running.until(f"^ready: https://localhost:{port}")

    def test_two_that_want_the_same_port(self, tmp_path: Path) -> None:
        """The one that comes second is told who has it."""
        port = free_port()
        write(tmp_path / "both.yaml", registry("a", port=port), registry("b", port=port))
        with up(tmp_path / "both.yaml", state=tmp_path / "state") as running:
            message = running.until(f"^[ab]: port {port} is already used by default/")
            assert "spec.service.port" in message
            running.until("^ready: ")


class TestEnd:
    """Nothing is left running, and nothing is lost."""

    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sig: sig.name)
    def test_a_signal_leaves_nothing_running(self, tmp_path: Path, sig: signal.Signals) -> None:
        """The server, its workers and the port are gone when `up` is."""
        port = free_port()
        with up(write(tmp_path / "team.yaml", registry(port=port)), state=tmp_path / "state") as running:
            running.until("^ready: ")
            leader = running.registry()["pid"]
            assert len(session(leader)) > 1
            assert running.stop(sig) == 0
            assert session(leader) == []
            assert not listens(port)

    def test_kill_9_leaves_nothing_running(self, tmp_path: Path) -> None:
        """The kernel ends the server with the operator, and its workers with the server; then `up` works again."""
        port = free_port()
        manifest = write(tmp_path / "team.yaml", registry(port=port))
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            processes = session(running.registry()["pid"])
            running.stop(signal.SIGKILL)
            await_end(processes)
            assert not listens(port)
        with up(manifest, state=tmp_path / "state") as again:
            again.until("^ready: ")

    def test_a_server_that_dies_is_started_again(self, tmp_path: Path) -> None:
        """The message says how it ended."""
        with up(write(tmp_path / "team.yaml", registry(port=free_port())), state=tmp_path / "state") as running:
            running.until("^ready: ")
            server = running.registry()["pid"]
            processes = session(server)
            os.kill(server, signal.SIGKILL)
            running.until("ended by signal 9")
            running.until("^ready: ")
            assert not set(processes) & set(session(running.registry()["pid"]))

    def test_a_restart_keeps_certificate_login_and_content(self, tmp_path: Path, crane: Path) -> None:
        """What a client knew before is good after."""
        port = free_port()
        manifest = write(tmp_path / "team.yaml", registry(port=port))
        image = f"localhost:{port}/app:1"
        pushed = make_oci_layout(tmp_path / "image", [b"kept"])
        environment = {"SSL_CERT_FILE": str(tmp_path / "ca.crt"), "DOCKER_CONFIG": str(tmp_path)}
        with up(manifest, state=tmp_path / "state") as running:
            running.until("^ready: ")
            (tmp_path / "ca.crt").write_bytes((running.handout() / "ca.crt").read_bytes())
            user, password = running.admin()
            certificate = ssl.get_server_certificate(("localhost", port))
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            (tmp_path / "config.json").write_text(f'{{"auths": {{"localhost:{port}": {{"auth": "{token}"}}}}}}')
            run(crane, "push", tmp_path / "image", image, env=environment)
            running.stop()
        with up(manifest, state=tmp_path / "state") as again:
            again.until("^ready: ")
            assert ssl.get_server_certificate(("localhost", port)) == certificate
            assert run(crane, "digest", image, env=environment).strip() == pushed.digest

    def test_down_stops_it_and_waits(self, tmp_path: Path) -> None:
        """Afterwards status says that it is stopped; a second `down` has nothing to do."""
        with up(write(tmp_path / "team.yaml", registry(port=free_port())), state=tmp_path / "state") as running:
            running.until("^ready: ")
            leader = running.registry()["pid"]
            assert local("down", "--state", running.state).returncode == 0
            assert session(leader) == []
            assert running.wait() == 0
            assert running.registry()["ready"] is False
            assert "stopped" in running.registry()["message"]
            assert "nothing runs" in local("down", "--state", running.state).stdout

    def test_content_goes_only_when_asked_by_name(self, tmp_path: Path) -> None:
        """`down --delete-data NAME` deletes that registry with all it had."""
        names = ("a", "b")
        for name in names:
            write(tmp_path / f"{name}.yaml", registry(name, port=free_port()))
        state = tmp_path / "state"
        with up(tmp_path, state=state) as running:
            for _ in names:
                running.until("^ready: ")
            kept, gone = (Path(running.registry(name)["storage"]) for name in names)
            assert local("down", "--delete-data", "b", "--state", state).returncode == 0
        assert kept.is_dir()
        assert not gone.exists()
        assert not (state / "logs" / "default" / "b.log").exists()
        assert [seen for seen in ("default/a", "default/b") if seen in local("status", "--state", state).stdout] == [
            "default/a"
        ]

    def test_other_manifests_leave_it_alone(self, tmp_path: Path) -> None:
        """What came from a file that isn't given this time is neither run nor deleted."""
        first = write(tmp_path / "first.yaml", registry("first", port=free_port()))
        second = write(tmp_path / "second.yaml", registry("second", port=free_port()))
        state = tmp_path / "state"
        with up(first, state=state) as running:
            running.until("^ready: ")
            login = running.admin("first")
        with up(second, state=state) as other:
            other.until("^ready: ")
            assert other.registry("first")["ready"] is False
        with up(first, state=state) as again:
            again.until("^ready: ")
            assert again.admin("first") == login
            with again.client("first", login=login) as admin:
                assert admin.get("/v2/").status_code == 200


def test_the_content_of_another_registry_is_served(tmp_path: Path, crane: Path) -> None:
    """A claim with a PersistentVolume names a directory of the machine, such as a registry:2 has left."""
    image = make_oci_layout(tmp_path / "image", [b"moved"])
    before, after = free_port(), free_port()
    plain = {"tls": {"disabled": {}}, "access": {"anonymous": "pull"}}
    with up(write(tmp_path / "old.yaml", registry("old", port=before, **plain)), state=tmp_path / "one") as running:
        running.until("^ready: ")
        user, password = running.admin("old")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(f'{{"auths": {{"localhost:{before}": {{"auth": "{token}"}}}}}}')
        login = {"DOCKER_CONFIG": str(tmp_path)}
        run(crane, "push", tmp_path / "image", f"localhost:{before}/app:1", env=login)
        content = running.registry("old")["storage"]
    volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": content}}
    claim = {"accessModes": ["ReadWriteOnce"], "volumeName": "disk", "resources": {"requests": {"storage": "1Gi"}}}
    manifests = write(
        tmp_path / "new.yaml",
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "moved"}, "spec": claim},
        registry("new", port=after, storage={"filesystem": {"existingClaim": "moved"}}, **plain),
    )
    with up(manifests, state=tmp_path / "two") as running:
        running.until("^ready: ")
        assert run(crane, "digest", f"localhost:{after}/app:1").strip() == image.digest
        assert running.registry("new")["storage"] == content
