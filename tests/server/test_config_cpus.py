"""The CPUs a container may use, from cgroup file systems of both versions laid out in a directory."""

import os
from pathlib import Path

import pytest

from registry_server.config.cpus import available_cpus

AFFINITY = len(os.sched_getaffinity(0))


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def available(cgroups: Path, own: str, **limits: str) -> int:
    """CPUs for a process in the groups `own`, with the files `limits`: `/` is written `__` and `.` is written `_`."""
    list_of_groups = cgroups.parent / "self"
    list_of_groups.write_text(own)
    for name, content in limits.items():
        path = cgroups / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return available_cpus(cgroups, list_of_groups)


def test_without_cgroups_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none", tmp_path / "none") == AFFINITY


def test_the_affinity_bounds_every_quota(cgroups: Path) -> None:
    assert available(cgroups, "0::/\n", cpu_max="6400000 100000\n") == AFFINITY


@pytest.mark.parametrize(
    ("quota", "cpus"), [("10000", 1), ("100000", 1), ("100001", 2), ("150000", 2), ("max", AFFINITY)]
)
def test_version_2_in_a_container_sees_its_limit_at_the_mount(cgroups: Path, quota: str, cpus: int) -> None:
    assert available(cgroups, "0::/\n", cpu_max=f"{quota} 100000\n") == min(cpus, AFFINITY)


def test_version_2_groups_above_count_as_well(cgroups: Path) -> None:
    limits = {"pods__one__cpu_max": "max 100000\n", "pods__cpu_max": "50000 100000\n"}
    assert available(cgroups, "0::/pods/one\n", **limits) == 1


@pytest.mark.parametrize(("quota", "cpus"), [("50000", 1), ("150000", 2), ("-1", AFFINITY)])
def test_version_1(cgroups: Path, quota: str, cpus: int) -> None:
    limits = {"cpu__docker__x__cpu_cfs_quota_us": quota, "cpu__docker__x__cpu_cfs_period_us": "100000"}
    own = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"
    assert available(cgroups, own, **limits) == min(cpus, AFFINITY)


def test_version_1_in_a_container_that_sees_only_the_mount(cgroups: Path) -> None:
    limits = {"cpu__cpu_cfs_quota_us": "50000", "cpu__cpu_cfs_period_us": "100000"}
    assert available(cgroups, "4:cpu,cpuacct:/docker/unseen\n", **limits) == 1
