"""Certificates as people bring them, and as their clients check them."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def make_certificate(key: Key, begin: datetime, life: timedelta) -> str:
    """A self-signed certificate in PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry.example.com")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + life)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )


def key_pem(key: Key, passphrase: bytes | None = None) -> str:
    """A key in PEM."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def verify(certificate: str, *, authority: str, host: str, at: datetime) -> None:
    """Checks a server's certificate as a client does that trusts the authority alone. Raises VerificationError."""
    store = Store(x509.load_pem_x509_certificates(authority.encode()))
    verifier = PolicyBuilder().store(store).time(at.replace(tzinfo=None)).build_server_verifier(x509.DNSName(host))
    verifier.verify(x509.load_pem_x509_certificate(certificate.encode()), [])
