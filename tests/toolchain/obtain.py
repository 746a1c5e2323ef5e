"""Finds a tool, or obtains it: its environment variable, PATH, the cache, then its sources in order.

The cache is `$REGATTA_CACHE`, else `~/.cache/regatta`. An entry is a folder named for tool and version that appears in
one rename, so whatever is there is complete; a lock per tool keeps two runs from building the same thing.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.toolchain import sources
from tests.toolchain.catalog import TOOLS, Debian, GoBuild, Npm, OnPath, Release, Tool, Wheel
from tests.toolchain.progress import Progress

# Daemons live in the administrator's folders, which a user's PATH lacks.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


class Unavailable(Exception):
    """The tool can neither be found nor obtained; `reasons` has one line for each place that was tried."""

    def __init__(self, name: str, reasons: list[str]) -> None:
        self.name = name
        self.reasons = reasons
        super().__init__(f"{name} is not available: " + "; ".join(reasons))


@dataclass(frozen=True)
class Found:
    path: Path
    origin: str  # where it was found, for people: "PATH", "cache", …


_failures: dict[str, Unavailable] = {}


def tool(name: str, progress: Progress | None = None) -> Path:
    """The path of the tool, obtained if need be, which can take minutes.

    Raises `Unavailable` with the reasons; the second time at once.
    """
    return obtain(TOOLS[name], progress or Progress()).path


def obtain(wanted: Tool, progress: Progress) -> Found:
    """Like `tool`, for any `Tool`, saying where it was found."""
    if failure := _failures.get(wanted.name):
        raise failure
    try:
        return find(wanted) or _obtain(wanted, progress)
    except Unavailable as failure:
        _failures[wanted.name] = failure
        raise


def find(wanted: Tool) -> Found | None:
    """The tool if it is there already; raises `Unavailable` if its environment variable names a folder without it."""
    if wanted.env_dir and (folder := os.environ.get(wanted.env_dir)):
        given = Path(folder) / wanted.name
        if not _executable(given):
            raise Unavailable(wanted.name, [f"{wanted.env_dir} names {folder}, which has no program {wanted.name}"])
        return Found(given, wanted.env_dir)
    if installed := _on_path(wanted):
        return Found(installed, "PATH")
    cached = _entry(wanted) / wanted.binary
    return Found(cached, "cache") if _executable(cached) else None


def cache_dir() -> Path:
    return Path(os.environ.get("REGATTA_CACHE") or Path.home() / ".cache" / "regatta")


def _obtain(wanted: Tool, progress: Progress) -> Found:
    reasons = ["not on PATH and not in the cache" if wanted.on_path else "not in the cache"]
    with _locked(wanted):
        if found := find(wanted):  # another run was faster
            return found
        for source in wanted.sources:
            try:
                return _from(source, wanted, progress)
            except (sources.SourceError, Unavailable) as failure:
                reasons.append(str(failure))
    raise Unavailable(wanted.name, reasons)


def _from(source: Release | GoBuild | Wheel | Npm | Debian, wanted: Tool, progress: Progress) -> Found:
    fetch: Callable[[Path], None]
    match source:
        case Debian():
            with progress.step(wanted.name, f"installing Debian's package {source.package}"):
                sources.install_debian(source)
            if path := _on_path(wanted):
                return Found(path, f"package {source.package}")
            raise sources.SourceError(f"package {source.package} brought no usable {wanted.name}")
        case Release():
            doing, origin = f"downloading {source.url}", "downloaded"
            fetch = partial(sources.download, source, wanted.binary)
        case GoBuild():
            doing, origin = f"building {source.package} v{wanted.version} with Go", "built"
            fetch = partial(sources.go_build, obtain(TOOLS["go"], progress).path, source, wanted.version, wanted.binary)
        case Wheel():
            doing, origin = f"installing {source.distribution} {wanted.version}", "installed"
            fetch = partial(sources.install_wheel, source, wanted.version)
        case Npm():
            doing, origin = f"installing npm's {source.package} {wanted.version}", "installed"
            fetch = partial(sources.install_npm, source, wanted.version)
    # One name, as the lock is held: what an interrupted run left is removed, and the rename stays on one file system.
    unfinished = _entry(wanted).with_name(f".unfinished-{wanted.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with progress.step(wanted.name, doing):
            fetch(unfinished)
        shutil.rmtree(_entry(wanted), ignore_errors=True)
        unfinished.rename(_entry(wanted))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Found(_entry(wanted) / wanted.binary, origin)


def _entry(wanted: Tool) -> Path:
    return cache_dir() / "tools" / f"{wanted.name}-{wanted.version}"


@contextmanager
def _locked(wanted: Tool) -> Iterator[None]:
    locks = cache_dir() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock = (locks / wanted.name).open("w")
    except OSError as error:
        raise Unavailable(wanted.name, [f"the cache {cache_dir()} cannot be written: {error.strerror}"]) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _on_path(wanted: Tool) -> Path | None:
    if wanted.on_path is None:
        return None
    folders = wanted.on_path.folders or (os.environ.get("PATH", os.defpath), _SYSTEM_PATH)
    found = shutil.which(wanted.name, path=os.pathsep.join(folders))
    return Path(found) if found and _fits(Path(found), wanted.on_path) else None


def _fits(path: Path, wanted: OnPath) -> bool:
    try:
        shown = subprocess.run([path, *wanted.args], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"(\d+)\.(\d+)", shown.stdout + shown.stderr)
    if version is None or not wanted.at_least <= (int(version[1]), int(version[2])) < wanted.below:
        return False
    return not wanted.static or _static(path)


def _static(path: Path) -> bool:
    """Whether an ELF program names no loader."""
    return not re.search(rb"/lib\S{0,16}/ld[-\w.]*\.so", path.read_bytes()[:4096])


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
