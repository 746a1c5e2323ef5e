"""The server's certificate: from an authority of the Registry's own, or checked when it is given.

The own authority lives ten years, what it issues ninety days; both are renewed at two thirds of their life. Servers
read a renewed certificate without a restart, and clients that trust the authority go on to: it is renewed over the same
key.
"""

import ipaddress
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry_operator.api.kinds import SECRET
from registry_operator.api.names import child_name
from registry_operator.api.placement import Placement
from registry_operator.api.registry import CertificateStatus, Registry
from registry_operator.cluster.protocol import Cluster, Key, Manifest
from registry_operator.plan import KeyPair, OwnTls
from registry_operator.plan.registry import AUTHORITY, TLS
from registry_operator.reconcile.apply import find
from registry_operator.reconcile.fault import Fault

AUTHORITY_LIFE: Final = timedelta(days=3650)
CERTIFICATE_LIFE: Final = timedelta(days=90)
CLOCK_SKEW: Final = timedelta(minutes=5)
"""By how much clocks of clients may be behind."""

LONGEST_COMMON_NAME: Final = 64
"""RFC 5280, upper bound of a common name."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What is known of the certificate. `own` is None for one that was given; all is None without TLS."""

    own: OwnTls | None = None
    status: CertificateStatus | None = None
    look_again: datetime | None = None
    """When to renew the certificate, or to find it expired."""


async def observe_tls(cluster: Cluster, registry: Registry, placement: Placement, now: datetime) -> Tls:
    """The certificate as it shall be: kept while it is good, made anew otherwise. Raises Fault."""
    tls = registry.spec.tls
    if tls.disabled is not None:
        return Tls()
    if tls.secret_ref is not None:
        return await _given(cluster, registry, tls.secret_ref.name, now)
    return await _own(cluster, registry, placement.hosts, now)


# --- a certificate of our own


async def _own(cluster: Cluster, registry: Registry, hosts: Sequence[str], now: datetime) -> Tls:
    authority_name = child_name(registry.metadata.name, AUTHORITY)
    server_name = child_name(registry.metadata.name, TLS)
    authority = _kept_authority(await find(cluster, SECRET, authority_name, registry), registry, now)
    server = _kept_server(await find(cluster, SECRET, server_name, registry), authority, hosts, now)
    certificate = _certificate(server.certificate)
    status = CertificateStatus(
        secret_name=server_name, not_after=certificate.not_valid_after_utc, ca_config_map_name=authority_name
    )
    return Tls(
        OwnTls(authority, server), status, min(map(_renewal, (certificate, _certificate(authority.certificate))))
    )


def _kept_authority(secret: Manifest | None, registry: Registry, now: datetime) -> KeyPair:
    """The authority that there is, renewed over its key when that is due; a new one where there is none."""
    kept = _key_pair(secret)
    if kept is None:
        return _issue_authority(registry, ec.generate_private_key(ec.SECP256R1()), now)
    certificate = _certificate(kept.certificate)
    if _in_life(certificate, now):
        return kept
    return _issue_authority(registry, _private_key(kept.key), now)


def _kept_server(secret: Manifest | None, authority: KeyPair, hosts: Sequence[str], now: datetime) -> KeyPair:
    """The server's certificate that there is, while it is in its life, of this authority and for these hosts."""
    kept = _key_pair(secret)
    if kept is not None:
        certificate = _certificate(kept.certificate)
        if (
            _in_life(certificate, now)
            and _names(certificate) == {str(_general_name(host).value) for host in hosts}
            and _issued_by(certificate, authority)
        ):
            return kept
    return _issue_server(authority, hosts, now)


def _key_pair(secret: Manifest | None) -> KeyPair | None:
    """What a Secret of ours holds; None where it isn't a certificate with its key."""
    try:
        pair = KeyPair(_text(secret, "tls.crt"), _text(secret, "tls.key"))
        matches = _certificate(pair.certificate).public_key() == _private_key(pair.key).public_key()
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        return None
    return pair if matches else None


def _issue_authority(registry: Registry, key: ec.EllipticCurvePrivateKey, now: datetime) -> KeyPair:
    name = _common_name(f"Regatta CA of {registry.metadata.namespace}/{registry.metadata.name}")
    public = key.public_key()
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, public, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _key_pem(key))


def _issue_server(authority: KeyPair, hosts: Sequence[str], now: datetime) -> KeyPair:
    issuer, issuer_key = _certificate(authority.certificate), _private_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    certificate = (
        _builder(_common_name(hosts[0]), issuer.subject, public, now, CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _renewal(certificate: x509.Certificate) -> datetime:
    """Two thirds into a certificate's life."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def _in_life(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < _renewal(certificate)


def _issued_by(certificate: x509.Certificate, authority: KeyPair) -> bool:
    try:
        certificate.verify_directly_issued_by(_certificate(authority.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:LONGEST_COMMON_NAME])])


# --- a certificate that was given


async def _given(cluster: Cluster, registry: Registry, name: str, now: datetime) -> Tls:
    secret = await cluster.get(Key(SECRET, registry.metadata.namespace, name))
    if secret is None:
        raise Fault(
            "CertificateMissing", f"tls.secretRef: there is no Secret {name}: create it with tls.crt and tls.key"
        )
    certificate = _check_given(secret, name, now)
    expires = certificate.not_valid_after_utc
    return Tls(status=CertificateStatus(secret_name=name, not_after=expires), look_again=expires)


def _check_given(secret: Manifest, name: str, now: datetime) -> x509.Certificate:
    """The server's certificate in a Secret that was given. Raises Fault."""
    where = f"tls.secretRef: Secret {name}"
    for file in ("tls.crt", "tls.key"):
        if file not in secret.get("data", {}):
            raise Fault("CertificateInvalid", f"{where} has no {file}: put the PEM file there")
    try:
        certificate = x509.load_pem_x509_certificates(_text(secret, "tls.crt").encode())[0]
    except ValueError:
        raise Fault("CertificateInvalid", f"{where}: tls.crt isn't a certificate in PEM") from None
    try:
        key = load_pem_private_key(_text(secret, "tls.key").encode(), password=None)
    except TypeError:
        raise Fault("CertificateInvalid", f"{where}: tls.key has a passphrase: store the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Fault("CertificateInvalid", f"{where}: tls.key isn't a private key in PEM") from None
    if certificate.public_key() != key.public_key():
        raise Fault(
            "CertificateInvalid",
            f"{where}: tls.key isn't the key of the first certificate in tls.crt: store the two that belong together",
        )
    if now >= certificate.not_valid_after_utc:
        raise Fault(
            "CertificateExpired",
            f"{where}: the certificate expired on {_day(certificate.not_valid_after_utc)}: renew it",
        )
    if now + CLOCK_SKEW < certificate.not_valid_before_utc:
        raise Fault(
            "CertificateInvalid",
            f"{where}: the certificate isn't valid before {_day(certificate.not_valid_before_utc)}",
        )
    return certificate


# --- PEM


def _text(secret: Manifest | None, key: str) -> str:
    """A value of a Secret. Raises KeyError, ValueError."""
    data = (secret or {}).get("data") or {}
    return b64decode(data[key], validate=True).decode()


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """A key of ours. Raises ValueError for any other."""
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key over an elliptic curve")  # noqa: TRY004, as a key that can't be read
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _day(moment: datetime) -> str:
    return moment.date().isoformat()
