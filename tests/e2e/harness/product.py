"""The product as a cluster admin gets it: two images and a chart, of these sources or of a version before them.

    sources ─► images.build ─► archives, kept by content in the cache ─► loaded into the cluster ─► helm install

There is no earlier release: the version before is made of these sources under a lower number. So its operator runs
another server image than the one of these sources, as that of an earlier release does.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from images.build import build, find_engine, version
from images.engines import Buildah, EngineError
from tests.chart.charts import CHART, RELEASE, ROOT, Helm
from tests.e2e.cluster import Cluster
from tests.e2e.harness.namespaces import Json, Namespace
from tests.toolchain import Unavailable, tool
from tests.toolchain.obtain import cache_dir
from tests.toolchain.progress import Progress

SYSTEM = "regatta-system"
"""The namespace of the operator."""
PREVIOUS = "0.0.9"
"""Stands for the version before these sources."""

_SOURCES = (
    "Dockerfile", "LICENSE", "README.md", "images", "operator", "pyproject.toml", "registry_server", "requirements",
)  # fmt: skip
_KEPT = 6  # builds in the cache; about 250 MB each
_PREFIX = "regatta"


@dataclass(frozen=True)
class Product:
    """One version, with its images in the cluster."""

    version: str
    chart: Path
    server: str
    """The server's image, as pods name it."""
    operator: str

    @property
    def values(self) -> Json:
        """The chart's values that run these images; none where they have their usual names."""
        if self.operator == f"{_PREFIX}/registry-operator:{self.version}":
            return {}
        repository, _, tag = self.operator.rpartition(":")
        return {"image": {"repository": repository, "tag": tag}}

    @property
    def spec(self) -> Json:
        """What a Registry's spec needs to run this server; nothing where the image has its usual name."""
        if self.server == f"{_PREFIX}/registry-server:{self.version}":
            return {}
        repository, _, tag = self.server.rpartition(":")
        return {"image": {"repository": repository, "tag": tag}}


def load_product(cluster: Cluster, folder: Path, *, number: str | None = None) -> Product:
    """Builds the product, or takes it from the cache, and loads its images; `number` gives it another version.

    The chart of another version is written below `folder`. Raises `Unavailable` where images can't be built.
    """
    with _sources(number) as sources:
        archives = _built(sources)
        of = version(sources)
    server, operator = cluster.load_images(*archives)
    return Product(of, CHART if number is None else _chart(folder, of), server, operator)


class Release:
    """The operator in the cluster, installed by Helm into a namespace that takes nothing but restricted pods."""

    def __init__(self, cluster: Cluster, helm: Helm) -> None:
        self.cluster = cluster
        self.helm = helm
        self.namespace = Namespace(cluster, SYSTEM)

    def install(self, product: Product, values: Json | None = None) -> None:
        """Returns once it is ready. CRDs that are there already are taken over."""
        if not self.cluster.kubectl("get", "namespace", SYSTEM, "--ignore-not-found"):
            Namespace.create(self.cluster, SYSTEM)
        self._helm("install", product, values, "--take-ownership")

    def upgrade(self, product: Product, values: Json | None = None) -> None:
        """Returns once the new operator is ready and the old one gone."""
        self._helm("upgrade", product, values)
        self.namespace.kubectl("rollout", "status", "deployment/regatta-operator", "--timeout=120s")

    def uninstall(self) -> None:
        """Returns once its pods are gone; nothing happens without a release."""
        self.helm("uninstall", RELEASE, f"--namespace={SYSTEM}", "--ignore-not-found", "--wait", "--timeout=120s")
        self.namespace.kubectl("delete", "lease", "regatta-operator", "--ignore-not-found")
        self.namespace.kubectl("wait", "pod", "--selector=app.kubernetes.io/component=operator", "--for=delete")

    def pods(self) -> list[Json]:
        """The operator's pods that are not going."""
        return self.namespace.pods("app.kubernetes.io/component=operator")

    def leader(self) -> str:
        """The name of the pod that acts."""
        return self.namespace.kubectl("get", "lease", "regatta-operator", "-o=jsonpath={.spec.holderIdentity}")

    def _helm(self, command: str, product: Product, values: Json | None, *options: str) -> None:
        where = (RELEASE, product.chart, f"--namespace={SYSTEM}")
        self.helm(command, *where, "--wait", "--timeout=180s", *options, values=product.values | (values or {}))


# --- building


@contextmanager
def _sources(number: str | None) -> Iterator[Path]:
    """The folder with the sources; a copy of them where they get another version."""
    if number is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="regatta-sources-") as folder:
        for name in _listed(ROOT):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, Path(folder) / name)
        source = Path(folder) / "registry_server" / "__init__.py"
        source.write_text(source.read_text().replace(f'"{version()}"', f'"{number}"'))
        yield Path(folder)


def _built(sources: Path) -> list[Path]:
    """The archives of server and operator: minutes the first time, at once while the sources are the same."""
    store, locks = cache_dir() / "images" / "e2e", cache_dir() / "locks"
    for folder in (store, locks):
        folder.mkdir(parents=True, exist_ok=True)
    entry = store / _digest(sources)
    names = [entry / f"registry-{target}-{version(sources)}.tar" for target in ("server", "operator")]
    with (locks / f"images-{entry.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(name.exists() for name in names):
            shutil.rmtree(entry, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=store))
            try:
                with Progress().step(f"images {version(sources)}", "building"):
                    _build(sources, scratch)
                scratch.rename(entry)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        os.utime(entry)
        _prune(store)
    return names


def _build(sources: Path, out: Path) -> None:
    """By the machine's Docker where that reaches an image registry, else with buildah on a Debian by debootstrap."""
    wanted: dict[str, Any] = {"prefix": _PREFIX, "tag": version(sources), "out": out, "project": sources}
    base = os.environ.get("REGATTA_BASE_IMAGE")
    reasons = []
    if base != "debootstrap":
        try:
            build(find_engine("docker"), base=base, **wanted)
        except EngineError as error:
            reasons.append(str(error))
        else:
            return
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("an image", [*reasons, "building without Docker needs Linux and root"])
    build(Buildah(tool("buildah"), cache_dir() / "images" / "buildah"), base=base or "debootstrap", **wanted)


def _digest(sources: Path) -> str:
    """Of all that goes into the images."""
    digest = hashlib.sha256(os.environ.get("REGATTA_BASE_IMAGE", "").encode())
    for name in _listed(sources):
        digest.update(f"{name}\0".encode() + hashlib.sha256((sources / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _listed(sources: Path) -> list[str]:
    """The files that a build is made of, below `sources`."""
    found = []
    for name in _SOURCES:
        top = sources / name
        found += [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(sources)) for path in found if "__pycache__" not in path.parts)


def _prune(store: Path) -> None:
    entries = sorted(store.glob("[0-9a-f]*"), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[:-_KEPT]:
        shutil.rmtree(entry, ignore_errors=True)


def _chart(folder: Path, number: str) -> Path:
    """The chart under another version."""
    chart = shutil.copytree(CHART, folder / f"regatta-{number}")
    file = chart / "Chart.yaml"
    described = yaml.safe_load(file.read_text()) | {"version": number, "appVersion": number}
    file.write_text(yaml.safe_dump(described))
    return Path(chart)
