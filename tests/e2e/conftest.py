"""The cluster that end-to-end tests run in, the product in it, and what they leave when one fails.

They run only when asked for, by `pytest tests/e2e`: a first run builds Kubernetes. REGATTA_E2E_CLUSTER says which
cluster (see `cluster/ways.py`). A failure's logs go to a folder in REGATTA_E2E_LOGS, else in the folder for temporary
files.
"""

import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.chart.charts import Helm
from tests.e2e.cluster import Cluster, Unsupported, ways
from tests.e2e.harness.namespaces import Namespace
from tests.e2e.harness.product import PREVIOUS, Product, Release, load_product
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import run
from tests.fixtures.tools import Need, unavailable
from tests.toolchain import Unavailable
from tests.toolchain.catalog import ARCH

_HERE = Path(__file__).parent
_IMAGES = "tests/e2e/images/"
_CLUSTERS = {
    "failover": 1,
    "cluster": 1,
    "network": 1,
    "product": 1,
    "under_load": 2,
    "upgrade": 2,
    "garbage": 2,
    "demo": 2,
}
"""In which of three clusters the tests of a module run; those of all others do in the third. Most of them wait for
something that has its time, so that clusters side by side take little more of the machine than one."""
_TIMEOUT = 1800  # seconds, for a test with what it makes first


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless a path in it was asked for."""
    asked = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(_HERE) for path in asked) else True


def pytest_itemcollected(item: pytest.Item) -> None:
    """Has the first test wait for what is built."""
    if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(_TIMEOUT))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keeps the tests of a cluster together in one process, in their order.

    xdist's own `loadgroup` does not, as pytest 9.2 has no place any more where it writes its groups.
    """

    class ByCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(_IMAGES):
                return "images"
            module = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
            return f"cluster {_CLUSTERS.get(module, 3) if ways.many() else 1}"

    return ByCluster(config, log)


@pytest.fixture(scope="session")
def shown(pytestconfig: pytest.Config) -> Callable[[], AbstractContextManager[object]]:
    """While the block runs, whoever waits sees what is printed: a first run builds for minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled if capture else nullcontext


@pytest.fixture(scope="session")
def cluster(shown: Callable[[], AbstractContextManager[object]]) -> Iterator[Cluster]:
    """A real Kubernetes; started for the first test that asks, gone after the last."""
    try:
        with shown():
            running = ways.start()
    except Unavailable as failure:
        unavailable(str(failure))
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="session")
def helm(cluster: Cluster, need: Need, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, as the cluster's administrator."""
    return Helm(need("helm"), cluster.kubeconfig, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def product(
    cluster: Cluster,
    shown: Callable[[], AbstractContextManager[object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Product:
    """The version of these sources, with its images in the cluster."""
    return _loaded(cluster, shown, tmp_path_factory)


@pytest.fixture(scope="session")
def previous(
    cluster: Cluster,
    shown: Callable[[], AbstractContextManager[object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Product:
    """What stands for the version before, with its images in the cluster; see `harness/product.py`."""
    return _loaded(cluster, shown, tmp_path_factory, PREVIOUS)


def _loaded(
    cluster: Cluster,
    shown: Callable[[], AbstractContextManager[object]],
    tmp_path_factory: pytest.TempPathFactory,
    number: str | None = None,
) -> Product:
    try:
        with shown():
            return load_product(cluster, tmp_path_factory.mktemp("product"), number=number)
    except Unavailable as failure:
        unavailable(str(failure))


@pytest.fixture(scope="module")
def release(cluster: Cluster, helm: Helm) -> Iterator[Release]:
    """The operator's release, which a test installs itself; gone after the module."""
    release = Release(cluster, helm)
    release.uninstall()
    yield release
    release.uninstall()


@pytest.fixture(scope="module")
def operator(release: Release, product: Product) -> Release:
    """The operator of these sources, at work."""
    release.install(product)
    return release


@pytest.fixture(scope="module")
def new_namespace(cluster: Cluster) -> Iterator[Callable[[str], Namespace]]:
    """Makes namespaces that enforce restricted pods and go with the module."""
    made: list[str] = []

    def new(prefix: str) -> Namespace:
        namespace = Namespace.new(cluster, prefix)
        made.append(namespace.name)
        return namespace

    yield new
    if made:
        cluster.kubectl("delete", "namespace", "--wait=false", "--ignore-not-found", *made)


@pytest.fixture(scope="session")
def busybox_image(cluster: Cluster, need: Need, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image in the cluster with a shell and the usual commands."""
    program = need("busybox")
    links = {f"bin/{applet}": "busybox" for applet in run(program, "--list").split() if applet != "busybox"}
    archive = make_docker_archive(
        tmp_path_factory.mktemp("busybox") / "image.tar",
        [Programs({"bin/busybox": program}, links)],
        name="kube.local/busybox:1",
        platform=f"linux/{ARCH}",
        config={"Cmd": ["sh"], "Env": ["PATH=/bin"]},
    )
    return cluster.load_images(archive)[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Ends a test that asks of its cluster what that can't do as one whose tool is missing."""
    try:
        yield
    except Unsupported as failure:
        unavailable(str(failure))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """As above, in the test itself."""
    try:
        yield
    except Unsupported as failure:
        unavailable(str(failure))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects the logs of a test that failed, and says in its report where they are."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, Cluster):
        logs = Path(os.environ.get("REGATTA_E2E_LOGS") or Path(tempfile.gettempdir()) / "regatta-e2e")
        name = re.sub(r"[^\w.-]+", "_", item.name)
        folder = logs / f"{name}-{report.when}"
        running.collect(folder)
        report.sections.append(("cluster", f"logs, events and descriptions are in {folder}"))
    return report
