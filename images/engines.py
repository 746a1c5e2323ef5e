"""The programs that run a Dockerfile: docker with BuildKit, or buildah, which needs no daemon.

Both build from a `Build` and save an image as a docker-archive, the tar file that docker, containerd and skopeo read.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

# Known to both builders as arguments that leave no trace in the image.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

_MANY = 200  # images of buildah's: a build makes about 40, and some 600 MB


class EngineError(Exception):
    """A builder cannot be used, or a build failed; the message is for people."""


@dataclass(frozen=True)
class Build:
    """One image to make. `secrets` are files by their ID, `epoch` the seconds since 1970 that become its time."""

    name: str
    context: Path
    dockerfile: Path
    epoch: int
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    no_cache: bool = False

    def options(self) -> list[str]:
        """What both builders understand."""
        given = dict(self.args)
        given |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
        options = ["--file", str(self.dockerfile), "--network", "host"]
        options += ["--target", self.target] if self.target else []
        options += ["--no-cache"] if self.no_cache else []
        for name, value in given.items():
            options += ["--build-arg", f"{name}={value}"]
        for identity, path in self.secrets.items():
            options += ["--secret", f"id={identity},src={path}"]
        return options


class Engine(Protocol):
    def build(self, build: Build) -> str:
        """Makes the image and returns what the engine knows it by; raises EngineError."""

    def save(self, image: str, name: str, archive: Path) -> None:
        """Writes the image as a docker-archive in which it has the one name."""


class Docker:
    """The Docker engine of the machine, or of DOCKER_HOST. Its images stay in it."""

    def __init__(self) -> None:
        if not shutil.which("docker"):
            raise EngineError("docker is not on PATH")
        environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        help_text = subprocess.run(["docker", "build", "--help"], env=environment, capture_output=True, check=False)
        if b"--secret" not in help_text.stdout:
            raise EngineError("docker has no BuildKit: its buildx plugin is missing")
        reached = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
        if reached.returncode != 0:
            raise EngineError(f"docker does not reach its engine: {reached.stderr.strip().splitlines()[-1]}")
        self._load = ["--load"] if b"--load" in help_text.stdout else []

    def build(self, build: Build) -> str:
        options = [*build.options(), *self._load, "--tag", build.name]
        options += ["--build-arg", f"SOURCE_DATE_EPOCH={build.epoch}"]
        # An attestation holds the times of the build, which would make each a different image.
        environment = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        _run("docker", "build", *options, build.context, env=environment)
        return build.name

    def save(self, image: str, name: str, archive: Path) -> None:  # noqa: ARG002  (it has the name)
        _run("docker", "save", "--output", archive, name)


class Buildah:
    """buildah as root, in a chroot: without a daemon, control groups or a network of its own.

    It keeps its images in a folder of ours, without a name, and they leave it as archives.
    """

    def __init__(self, program: Path, store: Path) -> None:
        if os.geteuid() != 0:
            raise EngineError("buildah needs root here: sudo make images")
        store.mkdir(parents=True, exist_ok=True)
        places = f"--root={store / 'images'}", f"--runroot={store / 'run'}", "--storage-driver=overlay"
        self._buildah = (program, *places)
        self._bound()

    def build(self, build: Build) -> str:
        isolated = ["--isolation", "chroot", "--layers", "--pull=false", "--timestamp", str(build.epoch)]
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "id"
            _run(*self._buildah, "build", *isolated, *build.options(), "--iidfile", made, build.context)
            return made.read_text().removeprefix("sha256:")

    def save(self, image: str, name: str, archive: Path) -> None:
        pushed = archive.with_name(f".{archive.name}.pushed")
        pushed.unlink(missing_ok=True)  # it would be added to
        try:
            _run(*self._buildah, "push", "--quiet", image, f"docker-archive:{pushed}:{name}")
            _copy_without_comments(pushed, archive)
        finally:
            pushed.unlink(missing_ok=True)

    def _bound(self) -> None:
        """Begins anew when the folder has grown to some GB: what no build uses any more can't be told from the rest."""
        listed = subprocess.run([*self._buildah, "images", "--all", "--quiet"], capture_output=True, check=True)
        if len(listed.stdout.splitlines()) > _MANY:
            subprocess.run([*self._buildah, "rmi", "--all"], capture_output=True, check=False)


def _copy_without_comments(source: Path, target: Path) -> None:
    """buildah notes in an image's history what each step was made from, and names that anew in every build."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        (manifest,) = json.loads(_content(old, "manifest.json"))
        config = json.loads(_content(old, manifest["Config"]))
        for step in config["history"]:
            step.pop("comment", None)
        changed = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        name = f"{hashlib.sha256(changed).hexdigest()}.json"
        replaced = {
            manifest["Config"]: (name, changed),
            "manifest.json": ("manifest.json", json.dumps([{**manifest, "Config": name}]).encode()),
        }
        for member in old:
            content: IO[bytes] | None = old.extractfile(member) if member.isfile() else None
            if member.name in replaced:
                member.name, text = replaced[member.name]
                member.size, content = len(text), io.BytesIO(text)
            new.addfile(member, content)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is a file"
    return file.read()


def _run(*command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs the command with its output on the terminal."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env={**os.environ, **(env or {})}, check=False)
    if done.returncode != 0:
        raise EngineError(f"`{' '.join(words[:2])} …` exited with {done.returncode}; its output above says why")
