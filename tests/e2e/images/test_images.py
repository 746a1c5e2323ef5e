"""The images as they are shipped: what is in them, that they run restricted, and that a second build gives the same.

They are built for the run, without an image registry, and run by a real Docker engine under what a pod of the
operator's templates is allowed: an unprivileged user, a read-only root, no capabilities.
"""

import hashlib
import json
import os
import secrets
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.build import Image
from registry_server import __version__
from registry_server.auth import hash_password
from tests.fixtures.docker import Dockerd
from tests.fixtures.images import make_oci_layout
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import free_port, run
from tests.fixtures.tools import Need
from tests.images.building import build_images
from tests.server.pki import Authority

PROJECT = Path(__file__).parents[3]
USER = 65532
RESTRICTED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host")
TMP = "--tmpfs=/tmp:size=64m"
TARGETS = ("server", "operator")
# A cold build downloads and compiles; a container starts within seconds.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def images(need: Need) -> Iterator[dict[str, Image]]:
    with tempfile.TemporaryDirectory(prefix="regatta-images-") as folder:
        yield build_images(need, Path(folder))


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    return images[request.param]


@pytest.fixture(scope="module")
def engine(dockerd: Dockerd, images: dict[str, Image]) -> Dockerd:
    """The Docker engine with both images loaded."""
    for image in images.values():
        dockerd.docker("load", "--input", str(image.archive))
    return dockerd


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    user: int
    state: str  # as in proc(5): R, S, Z, …


_PROCESSES = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid():
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        found.append((int(pid), int(status["PPid"]), int(status["Uid"].split()[0]), status["State"].split()[0]))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Container:
    """A running container of an image, without an init of Docker's."""

    engine: Dockerd
    name: str

    def stop(self) -> int:
        """Sends SIGTERM, as a node does to a pod, and returns the exit code; SIGKILL after a minute shows as 137."""
        self.engine.docker("stop", "--time=60", self.name)
        return int(self.engine.docker("inspect", "--format={{.State.ExitCode}}", self.name))

    def logs(self) -> str:
        """What it wrote to stdout and to stderr."""
        lines = Path(self.engine.docker("inspect", "--format={{.LogPath}}", self.name).strip()).read_text()
        return "".join(json.loads(line)["log"] for line in lines.splitlines())

    def processes(self) -> list["Process"]:
        """Its processes, as it sees them itself."""
        return [Process(*fields) for fields in json.loads(self.python(_PROCESSES))]

    def python(self, code: str) -> str:
        """Runs the code beside the program and returns what it prints."""
        return self.engine.docker("exec", self.name, "python", "-c", code)


@contextmanager
def running(engine: Dockerd, image: Image, *words: str, options: tuple[str, ...] = ()) -> Iterator[Container]:
    name = f"regatta-{secrets.token_hex(4)}"
    engine.docker("run", "--detach", "--name", name, *RESTRICTED, TMP, *options, image.name, *words)
    container = Container(engine, name)
    try:
        yield container
    except BaseException:
        print(container.logs())
        raise
    finally:
        engine.docker("rm", "--force", "--volumes", name)


class TestContent:
    def test_nothing_can_be_run_but_python_and_the_program(self, image: Image) -> None:
        """No shell, no pip, no compiler and no package manager for whoever gets in."""
        script = image.name.rpartition("/")[2].partition(":")[0]
        programs = [
            member.name
            for member in files(image)
            if member.isfile() and member.mode & 0o111 and not {".so", ".py"} & set(Path(member.name).suffixes)
        ]
        names = sorted(Path(name).name for name in programs)
        assert len(names) == 2, names
        assert names[0].startswith("python3.")
        assert names[1] == script
        assert not [member.name for member in files(image) if {"pip", "ensurepip"} & set(Path(member.name).parts)]

    def test_its_user_can_write_nothing_but_data_and_temporary_files(self, image: Image) -> None:
        """And nobody becomes root by a file."""
        writable = {
            member.name.strip("/")
            for member in files(image)
            if not member.issym() and (member.mode & 0o022 or USER in (member.uid, member.gid))
        }
        assert writable == ({"tmp", "var/lib/registry"} if "server" in image.name else {"tmp"})
        assert not [member.name for member in files(image) if member.mode & 0o6000]

    def test_every_module_is_compiled_and_never_checked_for_changes(self, image: Image) -> None:
        """A root that can't be written would have each start compile anew; times in bytecode differ between builds."""
        with layer(image) as tar:
            names = set(tar.getnames())
            sources = [name for name in names if name.endswith(".py")]
            compiled = {name for name in names if name.endswith(".pyc")}
            assert len(sources) > 500
            assert len(compiled) == len(sources)
            for name in sorted(compiled)[::50]:
                content = tar.extractfile(name)
                assert content is not None
                assert int.from_bytes(content.read(8)[4:], "little") == 0b01, name  # PEP 552: hash-based, unchecked

    def test_a_vulnerability_scanner_finds_the_system_and_its_packages(self, image: Image) -> None:
        with layer(image) as tar:
            names = set(tar.getnames())
            status = tar.extractfile(next(name for name in names if "status.d/libssl3" in name))
            assert status is not None
            assert b"\nVersion: 3." in status.read()
        assert "etc/os-release" in names
        assert any(name.endswith("/doc/libc6/copyright") for name in names)
        assert any("/regatta-" in name and name.endswith("dist-info/METADATA") for name in names)

    def test_it_says_what_it_is(self, image: Image) -> None:
        config = configuration(image)
        labels = config["config"]["Labels"]
        assert config["config"]["User"] == f"{USER}:{USER}"
        assert labels["org.opencontainers.image.version"] == __version__
        assert labels["org.opencontainers.image.revision"] == run("git", "-C", PROJECT, "rev-parse", "HEAD").strip()
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert {"title", "description", "vendor"} <= {name.rpartition(".")[2] for name in labels}

    def test_it_stays_small(self, image: Image) -> None:
        """What a pull transfers, in MB; a change that needs more says so here."""
        assert image.transfer < (55e6 if "server" in image.name else 50e6)


def test_a_second_build_gives_the_same_and_keeps_no_setting_of_pip(
    images: dict[str, Image], need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is run anew, with a setting that is on no other machine."""
    planted = f"{secrets.token_hex(8)}.test"
    monkeypatch.setenv("PIP_TRUSTED_HOST", planted)
    with tempfile.TemporaryDirectory(prefix="regatta-images-") as folder:
        again = build_images(need, Path(folder), no_cache=True)
        for target in TARGETS:
            assert again[target].digest == images[target].digest
            assert planted.encode() not in again[target].archive.read_bytes()


class TestServer:
    def test_it_serves_a_push_and_a_pull_and_ends_gracefully(
        self, engine: Dockerd, images: dict[str, Image], skopeo: Path, crane: Path, tmp_path: Path
    ) -> None:
        """Restricted as a pod is, by TLS and with a login, its content on a volume."""
        pushed = make_oci_layout(tmp_path / "image", [b"one", 5_000_000])
        with serving(engine, images["server"], tmp_path) as (container, address, ca):
            trust = {"SSL_CERT_FILE": str(ca)}
            login = tmp_path / "login.json"
            run(
                skopeo, "login", f"--authfile={login}", "--username=ci", "--password-stdin", address,
                input="s3cret", env=trust,
            )  # fmt: skip
            target = f"docker://{address}/team/app:1"
            run(skopeo, "copy", f"--authfile={login}", f"oci:{tmp_path / 'image'}:latest", target, env=trust)
            (tmp_path / "docker").mkdir()
            (tmp_path / "docker" / "config.json").write_bytes(login.read_bytes())
            known = trust | {"DOCKER_CONFIG": str(tmp_path / "docker")}
            assert run(crane, "digest", f"{address}/team/app:1", env=known).strip() == pushed.digest
            run(crane, "pull", "--format=oci", f"{address}/team/app:1", tmp_path / "pulled", env=known)
            blob = tmp_path / "pulled" / "blobs" / "sha256" / pushed.digest.removeprefix("sha256:")
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
            assert {process.user for process in container.processes()} == {USER}
            assert container.stop() == 0
            assert "stopped" in container.logs()

    def test_as_first_process_it_collects_its_workers(
        self, engine: Dockerd, images: dict[str, Image], tmp_path: Path
    ) -> None:
        """No init stands above it: a worker that was killed is replaced, and leaves no zombie."""
        with serving(engine, images["server"], tmp_path) as (container, _, _):
            before = _workers(container)
            container.python(f"import os; os.kill({before[0]}, 9)")
            until(lambda: len(set(_workers(container)) - set(before)) == 1, container)
            assert not [process for process in container.processes() if process.state == "Z"]
            assert container.stop() == 0

    def test_a_volume_of_docker_belongs_to_its_user(
        self, engine: Dockerd, images: dict[str, Image], tmp_path: Path
    ) -> None:
        """`docker run -v NAME:/var/lib/registry` works without a chown."""
        with serving(engine, images["server"], tmp_path, data="/var/lib/registry") as (container, _, _):
            assert container.stop() == 0

    def test_a_configuration_that_cannot_be_served_is_said_at_once(
        self, engine: Dockerd, images: dict[str, Image]
    ) -> None:
        with running(engine, images["server"]) as container:
            assert engine.docker("wait", container.name).strip() == "2"


class TestOperator:
    def test_it_answers_without_a_cluster(self, engine: Dockerd, images: dict[str, Image]) -> None:
        once = ("run", "--rm", *RESTRICTED, images["operator"].name)
        assert engine.docker(*once, "--version").strip().endswith(__version__)
        assert "--leader-election" in engine.docker(*once, "run", "--help")
        assert "kind: CustomResourceDefinition" in engine.docker(*once, "crds")

    def test_it_reconciles_and_ends_gracefully(
        self, engine: Dockerd, images: dict[str, Image], kube_api: KubeAPI, tmp_path: Path
    ) -> None:
        """Against a real API server: no module that it needs was left out of the image."""
        crds = PROJECT / "crds"
        kube_api.kubectl("apply", "--server-side", *(f"--filename={path}" for path in crds.glob("*.yaml")))
        kube_api.kubectl("wait", "--for=condition=Established", *(f"--filename={path}" for path in crds.glob("*.yaml")))
        namespace = kube_api.namespace()
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_bytes(kube_api.kubeconfig.read_bytes())
        kubeconfig.chmod(0o444)
        options = (f"--volume={kubeconfig}:/etc/kubeconfig:ro", "--env=KUBECONFIG=/etc/kubeconfig")
        port = free_port()
        words = (f"--namespace={namespace}", f"--metrics-addr=127.0.0.1:{port}")
        lease = f"--leader-election-namespace={namespace}"
        with running(engine, images["operator"], "run", *words, lease, options=options) as container:
            until(lambda: _answers(port, "/readyz"), container)
            manifest = {"apiVersion": "regatta.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "team"}}
            kube_api.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(manifest | {"spec": {}}))
            until(lambda: _deployment(kube_api, namespace), container)
            assert f"regatta/registry-server:{__version__}" in _deployment(kube_api, namespace)
            assert container.stop() == 0
            assert "Traceback" not in container.logs()


@contextmanager
def layer(image: Image) -> Iterator[tarfile.TarFile]:
    """The one layer of the image."""
    with tarfile.open(image.archive) as archive:
        (name,) = manifest(archive)["Layers"]
        with tarfile.open(fileobj=archive.extractfile(name)) as tar:
            yield tar


def files(image: Image) -> list[tarfile.TarInfo]:
    with layer(image) as tar:
        return tar.getmembers()


def manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    content = archive.extractfile("manifest.json")
    assert content is not None
    (only,) = json.load(content)
    return dict(only)


def configuration(image: Image) -> dict[str, Any]:
    with tarfile.open(image.archive) as archive:
        content = archive.extractfile(manifest(archive)["Config"])
        assert content is not None
        return dict(json.load(content))


@contextmanager
def serving(
    engine: Dockerd, image: Image, folder: Path, *, data: str = "/data"
) -> Iterator[tuple[Container, str, Path]]:
    """A registry of user `ci` with password `s3cret`, by TLS; gives its address and the file of its CA."""
    etc = folder / "etc"
    etc.mkdir()
    authority = Authority(etc)
    authority.issue()
    port, debug = free_port(), free_port()
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": data}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": "/etc/regatta/server.crt", "key": "/etc/regatta/server.key"},
            "debug": {"addr": f"127.0.0.1:{debug}"},
        },
        "auth": {"htpasswd": {"realm": "images", "path": "/etc/regatta/htpasswd"}},
    }
    (etc / "config.yml").write_text(json.dumps(config))
    (etc / "htpasswd").write_text(f"ci:{hash_password('s3cret', cost=4)}\n")
    for path in etc.iterdir():
        path.chmod(0o444)
    options = [f"--volume={etc}:/etc/regatta:ro"]
    if data == "/data":
        (folder / "data").mkdir()
        os.chown(folder / "data", USER, USER)
        options.append(f"--volume={folder / 'data'}:/data")
    else:
        options.append(f"--volume={data}")
    command = ("serve", "/etc/regatta/config.yml", "--workers", "2")
    with running(engine, image, *command, options=tuple(options)) as container:
        until(lambda: _answers(debug, "/readyz"), container)
        yield container, f"localhost:{port}", authority.ca


def _workers(container: Container) -> list[int]:
    """The PIDs of the server's workers that live."""
    return [process.pid for process in container.processes() if process.parent == 1 and process.state != "Z"]


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:  # among them urllib's own
        return False


def _deployment(kube_api: KubeAPI, namespace: str) -> str:
    """The images of the namespace's Deployments."""
    shown = "jsonpath={.items[*].spec.template.spec.containers[*].image}"
    return kube_api.kubectl("get", "deployments", "-n", namespace, "-o", shown)


def until(condition: Callable[[], object], container: Container, *, within: float = 120) -> None:
    """Waits for the condition while the container runs."""
    deadline = time.monotonic() + within
    while not condition():
        running = container.engine.docker("inspect", "--format={{.State.Running}}", container.name).strip()
        assert running == "true", f"{container.name} has ended:\n{container.logs()}"
        assert time.monotonic() < deadline, f"not within {within} s:\n{container.logs()}"
        time.sleep(0.1)
