"""The cluster's certificates, all from one authority, and the kubeconfigs made of them."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.e2e.cluster.layout import Network

_LIFETIME = timedelta(days=30)

# The users that Kubernetes has roles for.
_CLIENTS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
    "provisioner": ("system:provisioner", None),  # bound to its role by a manifest
    "apiserver-kubelet-client": ("apiserver-kubelet-client", "system:masters"),
    "front-proxy-client": ("front-proxy-client", None),
}


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def write_pki(folder: Path, network: Network) -> None:
    """Writes `NAME.crt` and `NAME.key` in PEM for the authority `ca`, the servers and the clients.

    `service-accounts.key` signs ServiceAccount tokens.
    """
    folder.mkdir(mode=0o700)
    authority = _authority(folder)
    services = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    addresses = [network.node, network.kubernetes, "127.0.0.1"]
    _leaf(folder, "apiserver", authority, "kube-apiserver", None, ["localhost", *services, *addresses])
    _leaf(folder, "kubelet", authority, network.node_name, None, [network.node_name, network.node])
    for name, (user, group) in _CLIENTS.items():
        _leaf(folder, name, authority, user, group)
    _leaf(folder, "kubelet-client", authority, f"system:node:{network.node_name}", "system:nodes")
    _write_key(folder / "service-accounts.key", ec.generate_private_key(ec.SECP256R1()))


def write_kubeconfig(path: Path, pki: Path, client: str, server: str, name: str) -> None:
    """Writes a kubeconfig that needs no other file."""

    def encoded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": encoded("ca.crt")}},
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": encoded(f"{client}.crt"),
                    "client-key-data": encoded(f"{client}.key"),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML


def _authority(folder: Path) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("regatta-cluster", None)
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "ca", certificate, key)
    return _Authority(certificate, key)


def _leaf(
    folder: Path, file: str, authority: _Authority, name: str, group: str | None, serves: Sequence[str] = ()
) -> None:
    """A client's certificate, or a server's for the host names and addresses that it serves."""
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(name, group), authority.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if serves:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(text) for text in serves]), critical=False
        )
    _write(folder, file, builder.sign(authority.key, hashes.SHA256()), key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(minutes=5),
        not_valid_after=now + _LIFETIME,
    )


def _name(common: str, organization: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    _write_key(folder / f"{name}.key", key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    # kube-apiserver verifies with an elliptic key only if it is in this format.
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
