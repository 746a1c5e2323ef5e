"""How many CPUs this process may use: the default of `serve --workers`."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_cpus(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs this process may run on and its container may use up, rounded up, at least 1.

    `cgroups` is where the cgroup file systems are mounted, `own` the list of this process's groups (cgroups(7)).
    """
    affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The limits, in CPUs, of this process's cgroups and of every group above them."""
    try:
        groups = own.read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for directory in _upwards(cgroups, group):
                yield from _quota_v2(directory)
        elif "cpu" in controllers.split(","):
            for directory in _upwards(cgroups / "cpu", group):
                yield from _quota_v1(directory)


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The directories of a group and of those above it. In a container only the mount itself may be visible."""
    directory = mount / group.lstrip("/")
    while directory != mount and directory.is_relative_to(mount):
        yield directory
        directory = directory.parent
    yield mount


def _quota_v2(directory: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):  # ValueError: `max`, no limit
        quota, period = (directory / "cpu.max").read_text().split()
        yield int(quota) / int(period)


def _quota_v1(directory: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        if quota > 0:  # -1: no limit
            yield quota / int((directory / "cpu.cfs_period_us").read_text())
