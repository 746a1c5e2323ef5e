"""`python -m images.build`, which `make images` calls: builds both images and says what came out.

    base (an image, or debootstrap) ─► docker or buildah ─► archives in OUT ─► digests and sizes

Only the standard library is needed.
"""

import argparse
import ast
import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from images.base import RELEASE, debian
from images.engines import Build, Buildah, Docker, Engine, EngineError
from tests.toolchain import Unavailable, tool
from tests.toolchain.obtain import cache_dir

_PROJECT = Path(__file__).parents[1]
_TARGETS = ("server", "operator")
_SOURCES = (
    "Dockerfile", "images/rootfs.py", "pyproject.toml", "README.md", "LICENSE", "requirements",
    "registry_server", "operator",
)  # fmt: skip
_SECRETS = "/run/secrets"
# The settings of pip that say where packages come from; others, as of its cache, have no meaning inside.
_PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "timeout")


@dataclass(frozen=True)
class Image:
    """What an archive holds. Sizes in bytes: unpacked on a node, and as a pull transfers it."""

    name: str
    digest: str  # of its configuration, the image's ID: the same wherever it is loaded or pushed
    size: int
    transfer: int
    archive: Path

    @classmethod
    def read(cls, archive: Path) -> "Image":
        with tarfile.open(archive) as tar:
            (manifest,) = json.loads(_member(tar, "manifest.json").read())
            digest = hashlib.sha256(_member(tar, manifest["Config"]).read()).hexdigest()
            sizes = [_sizes(_member(tar, layer)) for layer in manifest["Layers"]]
        size, transfer = (sum(column) for column in zip(*sizes, strict=True))
        name = manifest["RepoTags"][0].removeprefix("docker.io/")
        return cls(name, f"sha256:{digest}", size, transfer, archive)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m images.build",
        description="Builds the images of the registry server and of the operator, with docker or buildah.",
        epilog="pip's own settings (PIP_* variables, pip.conf) hold in the build as well, and leave no trace in it.",
    )
    parser.add_argument(
        "--base", metavar="IMAGE", help="the base image, or `debootstrap` where no image registry is in reach"
    )
    parser.add_argument("--builder", choices=("docker", "buildah"), help="by default whichever is there, docker first")
    parser.add_argument("--prefix", default="regatta", help="what stands before the images' names (%(default)s)")
    parser.add_argument("--tag", default=version(), help="by default the version, %(default)s")
    parser.add_argument("--out", type=Path, default=Path("dist/images"), help="the archives' folder (%(default)s)")
    parser.add_argument("--no-cache", action="store_true", help="build every step anew")
    asked = parser.parse_args(arguments)
    try:
        images = build(
            find_engine(asked.builder),
            base=asked.base,
            prefix=asked.prefix,
            tag=asked.tag,
            out=asked.out,
            no_cache=asked.no_cache,
        )
    except (EngineError, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    _show(images)
    return 0


def build(
    engine: Engine,
    *,
    base: str | None,
    prefix: str,
    tag: str,
    out: Path,
    no_cache: bool = False,
    project: Path = _PROJECT,
) -> list[Image]:
    """Builds and saves both images of the sources in `project`; raises EngineError or Unavailable."""
    epoch = _epoch()
    args = {"VERSION": version(project), "REVISION": revision() or "unknown"}
    if base == "debootstrap":
        args["BASE_IMAGE"] = _import(engine, debian(tool("debootstrap"), cache_dir() / "images"))
    elif base:
        args["BASE_IMAGE"] = base
    out.mkdir(parents=True, exist_ok=True)
    images = []
    with package_index() as secrets:
        for target in _TARGETS:
            name, archive = f"{prefix}/registry-{target}:{tag}", out / f"registry-{target}-{tag}.tar"
            wanted = Build(
                name=name,
                context=project,
                dockerfile=project / "Dockerfile",
                epoch=epoch,
                target=target,
                args=args,
                secrets=secrets,
                no_cache=no_cache,
            )
            engine.save(engine.build(wanted), name, archive)
            images.append(Image.read(archive))
    return images


@contextmanager
def package_index() -> Iterator[Mapping[str, Path]]:
    """Files for the build's secrets, which say to its pip what this machine's pip knows of where packages are."""
    settings = _pip_settings()
    with tempfile.TemporaryDirectory() as folder:
        secrets = {}
        authority = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
        if authority and Path(authority).is_file():
            secrets["ca.pem"] = Path(authority)
            settings["cert"] = f"{_SECRETS}/ca.pem"
        if settings:
            config = configparser.RawConfigParser()
            config["global"] = settings
            secrets["pip.conf"] = Path(folder) / "pip.conf"
            with secrets["pip.conf"].open("w") as file:
                config.write(file)
        yield secrets


def _pip_settings() -> dict[str, str]:
    """Of pip's files and PIP_* variables, as pip itself reads them; a later line of its list outdoes an earlier one."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.\.?([\w-]+)=(.*)$", listed, re.MULTILINE):
            found[name.removeprefix("default-")] = str(ast.literal_eval(value))
    # A folder of wheels on this machine is not there in the build.
    links = [link for link in found.pop("find-links", "").split() if "://" in link]
    return {name: value for name, value in found.items() if name in _PIP_SETTINGS} | (
        {"find-links": "\n".join(links)} if links else {}
    )


def find_engine(wanted: str | None = None) -> Engine:
    """The builder asked for, or the first that can be had; raises EngineError."""
    reasons = []
    if wanted != "buildah":
        try:
            return Docker()
        except EngineError as error:
            reasons.append(str(error))
    if wanted != "docker":
        try:
            return Buildah(tool("buildah"), cache_dir() / "images" / "buildah")
        except (EngineError, Unavailable) as error:
            reasons.append(str(error))
    raise EngineError("no builder of images can be used: " + "; ".join(reasons))


def _import(engine: Engine, root: Path) -> str:
    """Makes the tar file of a root an image of the engine's."""
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        context = Path(folder)
        (context / "root.tar").hardlink_to(root)
        (context / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nENV PATH="/usr/sbin:/usr/bin:/sbin:/bin"\n')
        name = f"localhost/regatta-base:{RELEASE}"
        return engine.build(Build(name=name, context=context, dockerfile=context / "Dockerfile", epoch=0))


def version(project: Path = _PROJECT) -> str:
    """The version of the sources."""
    source = (project / "registry_server" / "__init__.py").read_text()
    found = re.search(r'__version__ = "(.+)"', source)
    assert found, "registry_server/__init__.py holds the version"
    return found[1]


def revision() -> str:
    """The last commit that changed what the images are made of: others give the same images, bit by bit."""
    return _git("log", "-1", "--format=%H", "--", *_SOURCES)


def _epoch() -> int:
    """The time the images bear: SOURCE_DATE_EPOCH, else that of the revision, so that it follows from the sources."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct", "--", *_SOURCES) or 0)


def _git(*words: str) -> str:
    """What git says, or nothing where the sources are no checkout."""
    try:
        return subprocess.run(
            ["git", "-C", str(_PROJECT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    content = tar.extractfile(name)
    assert content is not None, f"{name} is a file"
    return content


def _sizes(layer: IO[bytes]) -> tuple[int, int]:
    """The bytes of a layer, and how many gzip leaves of them."""
    size, compressed, packer = 0, 0, zlib.compressobj(wbits=31)
    while block := layer.read(1 << 20):
        size += len(block)
        compressed += len(packer.compress(block))
    return size, compressed + len(packer.flush())


def _show(images: list[Image]) -> None:
    print()
    for image in images:
        print(f"{image.name}\n  {image.digest}")
        print(f"  {image.size / 1e6:.1f} MB, a pull transfers {image.transfer / 1e6:.1f} MB")
        print(f"  {image.archive}")
    print("\nNext: docker load --input FILE, or on a node: ctr --namespace k8s.io images import FILE")


if __name__ == "__main__":
    sys.exit(main())
