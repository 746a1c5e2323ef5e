"""What runs in a cluster: the command line of each component, and the configuration files that it reads.

Everything here is seen from inside the cluster's namespaces, where the state folder is at `layout.INSIDE`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.cluster.layout import Network, State
from tests.e2e.cluster.pki import write_kubeconfig

# In the order they are started; each waits for what it needs, or ends and is started again.
TOOLS = (
    "etcd",
    "kube-apiserver",
    "containerd",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
PROVISIONER = "provisioner"
PAUSE = "kube.local/pause:1"

_KUBECONFIGS = {
    "kube-controller-manager": "kube-controller-manager",
    "kube-scheduler": "kube-scheduler",
    "kubelet": "kubelet-client",
    "kube-proxy": "kube-proxy",
    PROVISIONER: "provisioner",
}


def commands(network: Network, tools: dict[str, Path]) -> dict[str, list[str]]:
    """The command line of each component by its name, with the programs in `tools`."""
    state = State.inside()
    arguments = {
        "etcd": _etcd(state),
        "kube-apiserver": _apiserver(network, state),
        "containerd": [f"--config={state.config / 'containerd.toml'}"],
        "kube-controller-manager": _controller_manager(state),
        "kube-scheduler": [
            f"--kubeconfig={state.config / 'kube-scheduler.kubeconfig'}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ],
        "kubelet": [
            f"--config={state.config / 'kubelet.json'}",
            f"--kubeconfig={state.config / 'kubelet.kubeconfig'}",
            f"--hostname-override={network.node_name}",
            f"--node-ip={network.node}",
        ],
        "kube-proxy": [f"--config={state.config / 'kube-proxy.json'}"],
    }
    return {name: [str(tools[name]), *arguments[name]] for name in TOOLS} | {
        PROVISIONER: [
            sys.executable,
            "-m",
            "tests.e2e.cluster.provisioner",
            str(state.config / f"{PROVISIONER}.kubeconfig"),
            str(state.volumes),
            network.node_name,
        ]
    }


def write_config(outside: State, network: Network, cni_plugins: Path) -> None:
    """Writes the files that `commands` name, kubeconfigs among them."""
    outside.config.mkdir()
    for component, client in _KUBECONFIGS.items():
        path = outside.config / f"{component}.kubeconfig"
        write_kubeconfig(path, outside.pki, client, network.server, network.node_name)
    state = State.inside()
    writers: dict[str, Callable[[], str]] = {
        "containerd.toml": lambda: _containerd(state, cni_plugins),
        "kubelet.json": lambda: json.dumps(_kubelet(network, state), indent=1),
        "kube-proxy.json": lambda: json.dumps(_kube_proxy(network, state), indent=1),
        "cni/10-bridge.conflist": lambda: json.dumps(_cni(network), indent=1),
        "pods-resolv.conf": lambda: "",  # so that pods know the cluster's DNS alone
        "node-resolv.conf": lambda: f"nameserver {network.dns}\n",  # so that images are pulled from Services by name
    }
    (outside.config / "cni").mkdir()
    for name, write in writers.items():
        (outside.config / name).write_text(write())


def _etcd(state: State) -> list[str]:
    return [
        f"--data-dir={state.root / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
    ]


def _apiserver(network: Network, state: State) -> list[str]:
    pki = state.pki
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={network.node}",
        "--secure-port=6443",
        f"--service-cluster-ip-range={network.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--shutdown-watch-termination-grace-period=1s",  # a minute without
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'service-accounts.key'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
    ]


def _controller_manager(state: State) -> list[str]:
    pki = state.pki
    return [
        f"--kubeconfig={state.config / 'kube-controller-manager.kubeconfig'}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        # Its default is a folder of the machine, which it would make.
        f"--flex-volume-plugin-dir={state.root / 'flex'}",
    ]


def _containerd(state: State, cni_plugins: Path) -> str:
    return f"""\
version = 2
root = "{state.root}/containerd"
state = "/run/containerd"

[grpc]
address = "{state.containerd}"

# Its default is a folder of the machine, which it would make.
[plugins."io.containerd.internal.v1.opt"]
path = "{state.root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Root may lack CAP_SYS_RESOURCE, as in a container.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_plugins}"
conf_dir = "{state.config}/cni"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{state.trust}"
"""


def _cni(network: Network) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": "regatta",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,  # a pod reaches itself by its Service
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(network: Network, state: State) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(state.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(state.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(state.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{state.containerd}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{network.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [network.dns],
        "clusterDomain": "cluster.local",
        "resolvConf": str(state.config / "pods-resolv.conf"),
        "volumePluginDir": str(state.root / "flex"),
        # A full disk of a developer's machine is not the tests' business.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Tests wait for these.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    }


def _kube_proxy(network: Network, state: State) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(state.config / "kube-proxy.kubeconfig")},
        "hostnameOverride": network.node_name,
        "mode": "iptables",
        "clusterCIDR": network.pods,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The machine's limits cannot be written from a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms"},
    }
