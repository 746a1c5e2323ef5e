"""Makes an image for kind's node where none can be pulled: `python -m tests.e2e.cluster.node_image`.

Debian, as kind's own base image is, with systemd, containerd, runc and CNI plugins from its packages; on top the files
of kind's base image, from its Go module, and Kubernetes as the toolchain has it. The images of the control plane, which
the node imports when it starts, each hold one program. What kind brings as images of its own is replaced: its network
by a bridge, so that NetworkPolicies are accepted and not enforced, its volumes by some that are there from the start.

REGATTA_KIND_IMAGE then names it: `REGATTA_KIND_IMAGE=$(python -m tests.e2e.cluster.node_image) pytest tests/e2e`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from images.base import RELEASE
from tests.fixtures.images import Programs, make_docker_archive
from tests.fixtures.processes import run
from tests.toolchain import Tool, tool
from tests.toolchain.catalog import ARCH, KIND, KUBERNETES, GoBuild
from tests.toolchain.obtain import obtain
from tests.toolchain.progress import Progress

_PACKAGES = (
    "systemd", "conntrack", "iptables", "iproute2", "ethtool", "kmod", "mount", "procps", "jq", "ca-certificates",
    "containerd", "runc", "containernetworking-plugins",
)  # fmt: skip

# What would start, or fail to start, in a container; after kind's Dockerfile.
_UNWANTED = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*", "etc/systemd/system/*.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*", "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
    "usr/lib/sysctl.d/*", "etc/sysctl.d/99-sysctl.conf",  # settings of the whole machine
)  # fmt: skip

_IMPORT = """\
[Unit]
Description=import the images of the control plane
After=containerd.service
Before=kubelet.service

[Service]
Type=oneshot
ExecStart=/bin/sh -euc "for image in /kind/images/*; do ctr --namespace=k8s.io images import $image; done"

[Install]
WantedBy=multi-user.target
"""

_CNI = {
    "cniVersion": "0.4.0",
    "name": "kind",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],  # of kind's 10.244.0.0/16 the first node's share
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

# kind creates what the image says its network consists of; this one is in place already.
_CNI_MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: network, namespace: kube-system}
data: {kind: "a bridge, from the node's image"}
"""

_VOLUMES = {
    "1Gi": 20,
    "5Gi": 20,
    "10Gi": 40,
    "20Gi": 20,
    "100Gi": 5,
    "200Gi": 5,
}  # how many of a size; each serves one claim

_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def _go(name: str, version: str, module: str, package: str, **more: Any) -> Tool:
    return Tool(name, version, (GoBuild(module, package, **more),))


_TOOLS = {
    "kubeadm": _go(
        "kubeadm", KUBERNETES, "k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kubeadm",
        version_variables=("k8s.io/component-base/version.gitVersion",), staging=True,
    ),
    "crictl": _go("crictl", "1.37.0", "sigs.k8s.io/cri-tools", "sigs.k8s.io/cri-tools/cmd/crictl"),
}  # fmt: skip


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m tests.e2e.cluster.node_image",
        description="Makes an image for kind's node in the Docker engine, and prints its name. Needs root.",
    ).parse_args()
    print(make())
    return 0


def make() -> str:
    """Makes the image and returns its name; takes some minutes."""
    module = _kind_module()
    with tempfile.TemporaryDirectory(prefix="regatta-node-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        run(tool("debootstrap"), "--variant=minbase", f"--include={','.join(_PACKAGES)}", RELEASE, root, timeout=1800)
        _install(root, module)
        _write_images(root)
        _enable(root)
        return _import(root)


def _kind_module() -> Path:
    answer = run(
        tool("go"), "mod", "download", "-json", f"sigs.k8s.io/kind@v{KIND}", env={"GOFLAGS": ""}, cwd=Path("/")
    )
    return Path(json.loads(answer)["Dir"])


def _program(name: str) -> Path:
    return obtain(_TOOLS[name], Progress()).path if name in _TOOLS else tool(name)


def _install(root: Path, module: Path) -> None:
    """Puts the files of kind's base image and the programs where they look for each other."""
    shutil.copytree(module / "images/base/files", root, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for script in (*(root / "kind/bin").iterdir(), *(root / "usr/local/bin").iterdir()):
        script.chmod(0o755)
    for name in ("kubeadm", "kubelet", "kubectl", "crictl"):
        shutil.copy(_program(name), root / "usr/bin" / name)
    (root / "usr/local/bin/containerd").symlink_to("/usr/bin/containerd")  # where its unit looks
    (root / "opt/cni").mkdir(parents=True, exist_ok=True)
    (root / "opt/cni/bin").symlink_to("/usr/lib/cni")
    config = root / "etc/containerd/config.toml"
    text = re.sub(r".*base_runtime_spec.*\n", "", config.read_text())
    # Root may lack CAP_SYS_RESOURCE, as in a container.
    config.write_text(text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true"))
    kubelet = root / "etc/default/kubelet"
    kubelet.write_text(kubelet.read_text().rstrip() + " --fail-cgroupv1=false\n")
    _write(root / "etc/cni/net.d/10-bridge.conflist", json.dumps(_CNI))
    _write(root / "kind/version", f"v{KUBERNETES}")
    _write(root / "kind/manifests/default-cni.yaml", _CNI_MANIFEST)
    _write(root / "kind/manifests/default-storage.yaml", json.dumps(_volumes(root)))
    (root / "etc/kubernetes/manifests").mkdir(parents=True)


def _write_images(root: Path) -> None:
    """Writes the images under the names by which kubeadm and containerd ask for them."""
    pause = re.search(r'sandbox_image = "(.+)"', (root / "etc/containerd/config.toml").read_text())
    assert pause, "kind's configuration of containerd names the image of pauses"
    wanted = run(_program("kubeadm"), "config", "images", "list", f"--kubernetes-version=v{KUBERNETES}").split()
    names = {name.rpartition("/")[2].partition(":")[0]: name for name in [*wanted, pause[1]]}
    layers: Mapping[str, Programs] = {
        **{name: Programs({f"usr/local/bin/{name}": tool(name)}) for name in (*_CONTROL_PLANE, "etcd")},
        "kube-proxy": _kube_proxy(root),
        "coredns": Programs({"coredns": tool("coredns")}),
        "pause": Programs({"busybox": tool("busybox")}),
    }
    entrypoints = {"coredns": ["/coredns"], "pause": ["/busybox", "sleep", str(2**31 - 1)]}
    (root / "kind/images").mkdir()
    for short, layer in layers.items():
        config = {"Env": ["PATH=/usr/local/bin:/usr/sbin"], "Entrypoint": entrypoints.get(short)}
        file = root / "kind/images" / f"{short}.tar"
        make_docker_archive(file, [layer], name=names[short], platform=f"linux/{ARCH}", config=config)


def _kube_proxy(root: Path) -> Programs:
    """kube-proxy with the node's iptables and the libraries that it loads."""
    used = [
        "/usr/sbin/xtables-nft-multi",
        *(f"/{path.relative_to(root)}" for path in root.glob("usr/lib/*/xtables/*.so")),
    ]
    libraries = set(re.findall(r"/\S+(?= \(0x)", run("chroot", root, "ldd", *used)))
    files = [path.lstrip("/") for path in (*used, *sorted(libraries))]
    names = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
    return Programs(
        {"usr/local/bin/kube-proxy": tool("kube-proxy")} | {name: (root / name).resolve() for name in files},
        {f"usr/sbin/{name}": "xtables-nft-multi" for name in names},
    )


def _volumes(root: Path) -> dict[str, Any]:
    """The default storage class, and volumes for it in folders of the node. Of these the kubelet heeds fsGroup."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    linux = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}  # any node: there is one
    items = [storage_class]
    sizes = [size for size, many in _VOLUMES.items() for _ in range(many)]
    for number, size in enumerate(sizes):
        folder = f"var/lib/volumes/{number}"
        (root / folder).mkdir(parents=True)
        spec = {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "standard",
            "local": {"path": f"/{folder}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [linux]}]}},
        }
        metadata = {"name": f"volume-{number}"}
        items.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec})
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _enable(root: Path) -> None:
    """Leaves systemd with what a node runs; after kind's Dockerfile."""
    for pattern in _UNWANTED:
        for path in root.glob(pattern):
            path.unlink()
    _write(root / "etc/systemd/system/import-images.service", _IMPORT)
    for name in ("kubelet", "containerd", "undo-mount-hacks", "import-images"):
        run("systemctl", f"--root={root}", "enable", name)
    run("systemctl", f"--root={root}", "mask", "systemd-binfmt.service")  # it changes the whole machine
    with (root / "etc/systemd/journald.conf").open("a") as file:
        file.write("ReadKMsg=no\n")
    if not (root / "sbin/init").is_symlink():
        (root / "sbin/init").symlink_to("/usr/lib/systemd/systemd")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _import(root: Path) -> str:
    name = f"kube.local/node:v{KUBERNETES}"
    changes = ('ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]', "ENV container=docker")
    with subprocess.Popen(["tar", "--directory", root, "--create", "."], stdout=subprocess.PIPE) as tar:
        options = [word for change in changes for word in ("--change", change)]
        subprocess.run(["docker", "import", *options, "-", name], stdin=tar.stdout, check=True, capture_output=True)
    return name


if __name__ == "__main__":
    sys.exit(main())
