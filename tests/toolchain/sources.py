"""The ways to obtain a tool: an official release, a build by Go, a wheel, a package of npm's, a Debian package.

The first four put the tool into a folder of its own, which `obtain.py` then moves into the cache. Each raises
`SourceError` with a reason for people when it cannot.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from functools import cache
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from tests.toolchain.catalog import Debian, GoBuild, Npm, Release, Wheel


class SourceError(Exception):
    """One source could not give the tool; the message says why."""


def download(release: Release, binary: str, into: Path) -> None:
    """Downloads the release, verifies it against the published SHA-256 sum and leaves `into/binary`."""
    host = urlsplit(release.url).netloc
    if not _reachable(f"{urlsplit(release.url).scheme}://{host}/"):
        raise SourceError(f"{host} cannot be reached")
    name = release.url.rsplit("/", 1)[1]
    archive = into / ".download"
    try:
        with _open(release.checksums) as response:
            expected = _published_sum(response.read(1 << 20).decode(), name)
        with _open(release.url) as response, archive.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, ValueError) as error:
        raise SourceError(f"{release.url} cannot be downloaded: {error}") from error
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise SourceError(f"{release.url} has SHA-256 {actual}, {release.checksums} says {expected}")
    if release.member is None:
        archive.rename(into / binary)
    else:
        _extract(archive, release.member, into / binary)
        archive.unlink()
    (into / binary).chmod(0o755)


def go_build(go: Path, build: GoBuild, version: str, binary: str, into: Path) -> None:
    """Builds `into/binary` in a module of its own.

    `go install PACKAGE@VERSION` refuses modules with `replace` lines, as Kubernetes has them; a module that requires
    the pinned one works for all, with the other dependencies chosen and verified by Go.
    """
    source = into / ".module"
    source.mkdir()
    environment = _go_environment()
    lines = ["module tools", "go 1.26", f"require {build.module} v{version}"]
    if build.staging:
        answer = _run([str(go), "mod", "download", "-json", f"{build.module}@v{version}"], cwd=source, env=environment)
        upstream = Path(json.loads(answer)["GoMod"]).read_text()
        # Kubernetes 1.N.P publishes what it keeps in ./staging as modules of version 0.N.P.
        published = "v0." + version.split(".", 1)[1]
        staged = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", upstream, re.MULTILINE)
        lines += [f"replace {module} => {module} {published}" for module in staged]
    (source / "go.mod").write_text("\n".join(lines) + "\n")
    link = " ".join(["-s", "-w", *(f"-X {variable}=v{version}" for variable in build.version_variables)])
    compile_ = [str(go), "build", "-mod=mod", "-trimpath", "-ldflags", link]
    _run([*compile_, "-o", str(into / binary), build.package], cwd=source, env=environment)
    shutil.rmtree(source)


def install_wheel(wheel: Wheel, version: str, into: Path) -> None:
    """Unpacks the pinned distribution into the folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", "--no-deps", "--target", str(into), f"{wheel.distribution}=={version}"])


def install_npm(npm: Npm, version: str, into: Path) -> None:
    """Installs the pinned package with what it needs; no script of theirs is run."""
    if not (shutil.which("npm") and shutil.which("node")):
        raise SourceError(f"Node.js with npm is not there to install {npm.package}")
    quiet = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    _run(["npm", "install", "--ignore-scripts", *quiet, "--prefix", str(into), f"{npm.package}@{version}"])


def install_debian(debian: Debian) -> None:
    """Installs the package with apt; the services in it are not started."""
    if not shutil.which("apt-get"):
        raise SourceError(f"apt-get is not there to install {debian.package}")
    if os.geteuid() != 0:
        raise SourceError(f"only root can install it: sudo apt-get install {debian.package}")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    install = [*apt, "install", "-y", "--no-install-recommends", debian.package]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _NoServices():
        try:
            _run(install, env=environment)
        except SourceError:
            # The package lists may be missing or out of date.
            _run([*apt, "update"], env=environment)
            _run(install, env=environment)


class _NoServices:
    """Debian's own switch that keeps a package from starting its service; a policy that is already there stays."""

    _policy = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self._ours = not self._policy.exists()
        if self._ours:
            self._policy.write_text("#!/bin/sh\nexit 101\n")
            self._policy.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._policy.unlink(missing_ok=True)


def _open(url: str, timeout: float = 30) -> HTTPResponse:
    response: HTTPResponse = urllib.request.urlopen(url, timeout=timeout)  # noqa: S310, the catalog's own URLs
    return response


@cache
def _reachable(url: str) -> bool:
    """Whether the host answers within 3 s; asked once. In a thread, as the lookup of a name knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        try:
            _open(url, timeout=3).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(3)
    return answered.is_set()


def _published_sum(listing: str, name: str) -> str:
    """The sum of `name` in a `sha256sum` listing, or the only word of a file that holds nothing else."""
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 1 or (len(words) == 2 and words[1].lstrip("*").rsplit("/", 1)[-1] == name):
            return words[0].lower()
    raise ValueError(f"no checksum of {name} is published")


def _extract(archive: Path, member: str, target: Path) -> None:
    with tarfile.open(archive) as tar:
        try:
            content = tar.extractfile(member)
        except KeyError:
            content = None
        if content is None:
            raise SourceError(f"the release holds no file {member}")
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _go_environment() -> dict[str, str]:
    """The caller's environment without what would change the outcome of a build."""
    steering = {"GOOS", "GOARCH", "GOBIN", "GOROOT", "GOEXPERIMENT"}
    kept = {name: value for name, value in os.environ.items() if name not in steering}
    return kept | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GO111MODULE": "on"}


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise SourceError(f"`{' '.join(command[:4])} …` exited with {done.returncode}:\n{tail}")
    return done.stdout
