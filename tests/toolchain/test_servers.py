"""The real servers that other tests stand on come up, do their work and leave nothing behind."""

import json
import os
import select
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.fixtures.docker import Dockerd
from tests.fixtures.images import make_docker_archive, make_oci_index, make_oci_layout
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import CommandFailed, free_port, run, server
from tests.fixtures.tools import unavailable


class TestKubeAPI:
    def test_objects_are_stored_and_namespaces_are_fresh(self, kube_api: KubeAPI) -> None:
        namespace = kube_api.namespace()
        assert kube_api.namespace() != namespace
        kube_api.kubectl("create", "configmap", "settings", "-n", namespace, "--from-literal=colour=blue")
        stored = json.loads(kube_api.kubectl("get", "configmap", "settings", "-n", namespace, "-o", "json"))
        assert stored["data"] == {"colour": "blue"}

    def test_a_custom_resource_is_validated_by_its_cel_rules(self, kube_api: KubeAPI) -> None:
        kube_api.kubectl("apply", "-f", "-", input=json.dumps(_CRD))
        kube_api.kubectl("wait", "--for=condition=Established", "crd/boats.test.example")
        boat = {"apiVersion": "test.example/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"crew": 0}}
        with pytest.raises(CommandFailed, match="a boat needs a crew"):
            kube_api.kubectl("apply", "-n", kube_api.namespace(), "-f", "-", input=json.dumps(boat))

    def test_a_service_account_may_do_what_rbac_grants_and_no_more(self, kube_api: KubeAPI) -> None:
        namespace = kube_api.namespace()
        kube_api.kubectl("create", "serviceaccount", "reader", "-n", namespace)
        kube_api.kubectl("create", "role", "reader", "-n", namespace, "--verb=list", "--resource=secrets")
        kube_api.kubectl(
            "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:reader"
        )
        reader = kube_api.kubeconfig_for(kube_api.kubectl("create", "token", "reader", "-n", namespace).strip())
        kube_api.kubectl("get", "secrets", "-n", namespace, f"--kubeconfig={reader}")
        with pytest.raises(CommandFailed, match="Forbidden"):
            kube_api.kubectl("get", "configmaps", "-n", namespace, f"--kubeconfig={reader}")


class TestDockerd:
    def test_an_imported_image_runs(self, dockerd: Dockerd) -> None:
        dockerd.import_busybox_image("regatta.test/busybox:1")
        said = dockerd.docker("run", "--rm", "--network", "host", "regatta.test/busybox:1", "echo", "ahoy")
        assert said == "ahoy\n"

    def test_an_archive_of_ours_loads(self, dockerd: Dockerd, tmp_path: Path) -> None:
        archive = make_docker_archive(tmp_path / "image.tar", [b"one", 4096], name="regatta.test/archive:1")
        assert "regatta.test/archive:1" in dockerd.docker("load", "-i", str(archive))

    def test_images_go_through_a_registry(
        self, dockerd: Dockerd, distribution: Path, crane: Path, skopeo: Path, tmp_path: Path
    ) -> None:
        """Docker, crane and skopeo push and pull through distribution, the peer, each in its own way."""
        address = f"127.0.0.1:{free_port()}"
        config = tmp_path / "config.yml"
        storage = {"filesystem": {"rootdirectory": str(tmp_path / "data")}}
        config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
        with server(distribution, "serve", config, log=tmp_path / "registry.log") as registry:
            registry.await_port("127.0.0.1", int(address.rsplit(":", 1)[1]))
            layout = make_oci_layout(tmp_path / "layout", [b"one", 1 << 20])
            index = make_oci_index(tmp_path / "index", {"linux/amd64": [1], "linux/arm64/v8": [2, 3]})
            source, target = f"oci:{tmp_path / 'layout'}:latest", f"docker://{address}/layout:1"
            run(skopeo, "copy", "--dest-tls-verify=false", source, target)
            run(crane, "push", tmp_path / "index", f"{address}/index:1")
            assert run(crane, "digest", f"{address}/layout:1").strip() == layout.digest
            assert run(crane, "digest", f"{address}/index:1").strip() == index.digest
            dockerd.docker("pull", f"{address}/layout:1")
            dockerd.import_busybox_image(f"{address}/busybox:1")
            dockerd.docker("push", f"{address}/busybox:1")

    def test_a_certificate_is_trusted_while_asked(self, dockerd: Dockerd, distribution: Path, tmp_path: Path) -> None:
        if "::1" in dockerd.docker("info", "--format", "{{.RegistryConfig.InsecureRegistryCIDRs}}"):
            unavailable("this Docker engine trusts all of loopback, so that no refusal can be seen")
        address = f"[::1]:{free_port()}"
        certificate, key = _self_signed("::1", tmp_path)
        config = tmp_path / "config.yml"
        http = {"addr": address, "tls": {"certificate": str(certificate), "key": str(key)}}
        config.write_text(json.dumps({"version": 0.1, "storage": {"inmemory": {}}, "http": http}))
        login = ("login", "--username=me", "--password-stdin", address)
        with server(distribution, "serve", config, log=tmp_path / "registry.log") as registry:
            registry.await_port("::1", int(address.rsplit(":", 1)[1]))
            with pytest.raises(CommandFailed, match="certificate signed by unknown authority"):
                dockerd.docker(*login, input="secret")
            with dockerd.trust(address, certificate):
                assert "Login Succeeded" in dockerd.docker(*login, input="secret")
                dockerd.docker("logout", address)
            with pytest.raises(CommandFailed, match="certificate signed by unknown authority"):
                dockerd.docker(*login, input="secret")


class TestImages:
    def test_the_same_call_gives_the_same_digest(self, tmp_path: Path) -> None:
        first = make_oci_layout(tmp_path / "a", [b"one", 100_000])
        assert make_oci_layout(tmp_path / "b", [b"one", 100_000]) == first
        assert make_oci_layout(tmp_path / "c", [b"one", 100_001]) != first


@pytest.mark.skipif(sys.platform != "linux", reason="parent death signals are Linux's")
def test_a_server_dies_with_the_run_that_started_it(tmp_path: Path) -> None:
    """Even `kill -9` of the tests leaves no server running."""
    script = (
        "import sys; from pathlib import Path; from tests.fixtures.processes import server\n"
        f"with server('sleep', '1000', log=Path({str(tmp_path / 'log')!r})) as running:\n"
        "    print(running.pid, flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.send_signal(signal.SIGKILL)
    try:
        assert select.select([watch], [], [], 10)[0], "the server is still running"
    finally:
        os.close(watch)


def _self_signed(address: str, folder: Path) -> tuple[Path, Path]:
    """A certificate for the IP address that is its own CA, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "boats.test.example"},
    "spec": {
        "group": "test.example",
        "scope": "Namespaced",
        "names": {"kind": "Boat", "plural": "boats"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"crew": {"type": "integer"}},
                                "x-kubernetes-validations": [
                                    {"rule": "self.crew > 0", "message": "a boat needs a crew"}
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}
