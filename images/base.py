"""The base image for where no image registry is in reach: a small Debian with its Python, by debootstrap.

It only serves the build: the final images take their Python and libraries from it.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from images.engines import EngineError

RELEASE = "bookworm"
_PACKAGES = ("python3-venv", "ca-certificates")
_WITHOUT = (
    "dev/*", "proc/*", "sys/*", "run/*", "tmp/*", "var/cache/*", "var/lib/apt/lists/*", "var/log/*",
    "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/doc/*/[!c]*",
)  # fmt: skip


def debian(debootstrap: Path, cache: Path) -> Path:
    """The tar file of the root, made once a cache in about a minute; remove it to follow Debian's updates.

    Packages come from the mirror in DEBIAN_MIRROR, else from that of the machine's own apt, else from debootstrap's.
    """
    archive = cache / f"debian-{RELEASE}.tar"
    if archive.exists():
        return archive
    if os.geteuid() != 0:
        raise EngineError("debootstrap needs root: sudo make images BASE=debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".debian-", dir=cache))
    try:
        root, mirror = work / "root", _mirror()
        include = f"--include={','.join(_PACKAGES)}"
        words = [str(debootstrap), "--variant=minbase", include, RELEASE, str(root), *([mirror] if mirror else [])]
        if subprocess.run(words, check=False).returncode != 0:
            raise EngineError("debootstrap failed; its output above says why, DEBIAN_MIRROR names another mirror")
        _pack(root, work / "root.tar")
        (work / "root.tar").rename(archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return archive


def _mirror() -> str | None:
    if given := os.environ.get("DEBIAN_MIRROR"):
        return given
    if not shutil.which("apt-get"):
        return None
    ours = ["Created-By: Packages", f"Codename: {RELEASE}", "Component: main"]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", *ours], capture_output=True, text=True, check=False
    )
    return next(iter(listed.stdout.split()), None)


def _pack(root: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if not any(fnmatch(name, one) for one in _WITHOUT):
                tar.add(path, name, recursive=False)
