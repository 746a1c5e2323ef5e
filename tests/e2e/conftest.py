"""The cluster that end-to-end tests run in, and what they leave when one fails.

They run only when asked for, by `pytest tests/e2e`: a first run builds Kubernetes. REGATTA_E2E_CLUSTER=N takes the
cluster N that `python -m tests.e2e.cluster up` keeps, instead of one for the run. A failure's logs go to a folder in
REGATTA_E2E_LOGS, else in the folder for temporary files.
"""

import os
import re
import tempfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.e2e.cluster import ClusterError, LocalCluster
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import run
from tests.fixtures.tools import Need, unavailable
from tests.toolchain import Unavailable
from tests.toolchain.catalog import ARCH

_HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless a path in it was asked for."""
    asked = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(_HERE) for path in asked) else True


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[LocalCluster]:
    """A real Kubernetes with one node; started for the first test that asks, gone after the last."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    kept = os.environ.get("REGATTA_E2E_CLUSTER")
    try:
        # A first start builds Kubernetes; whoever waits sees its progress.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            running = LocalCluster.attach(int(kept)) if kept else LocalCluster.start(stay=False)
    except Unavailable as failure:
        unavailable(str(failure))
    except ClusterError as failure:
        if os.geteuid() != 0:
            unavailable(str(failure))
        raise
    try:
        yield running
    finally:
        if not kept:
            running.down()


@pytest.fixture(scope="session")
def busybox_image(cluster: LocalCluster, need: Need, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image in the cluster with a shell and the usual commands."""
    name, program = "kube.local/busybox:1", need("busybox")
    links = {f"bin/{applet}": "busybox" for applet in run(program, "--list").split() if applet != "busybox"}
    archive = make_docker_archive(
        tmp_path_factory.mktemp("busybox") / "image.tar",
        [Programs({"bin/busybox": program}, links)],
        name=name,
        platform=f"linux/{ARCH}",
        config={"Cmd": ["sh"], "Env": ["PATH=/bin"]},
    )
    cluster.load_images(archive)
    return name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects the logs of a test that failed, and says in its report where they are."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, LocalCluster):
        logs = Path(os.environ.get("REGATTA_E2E_LOGS") or Path(tempfile.gettempdir()) / "regatta-e2e")
        name = re.sub(r"[^\w.-]+", "_", item.name)
        folder = logs / f"{name}-{report.when}"
        running.collect(folder)
        report.sections.append(("cluster", f"logs, events and descriptions are in {folder}"))
    return report
