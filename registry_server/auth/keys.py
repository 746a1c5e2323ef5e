"""Public keys by which tokens of others are verified: found by what a token's head says, used for what they are for.

    head ─► x5c: a chain of certificates up to one we trust
         ├► jwk: a key we trust, written out
         ├► kid: the name of a key we trust
         └► none of them: our only key

Only signatures by a private key count. A key is used with the algorithms of its own kind and no other, so that nobody
can sign with a public key as if it were a shared secret.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from registry_server.auth.authenticator import UnverifiedToken
from registry_server.auth.login import Unauthenticated

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

LEEWAY: Final = 30
"""Seconds that another's clock may differ from ours."""
SHORTEST_RSA: Final = 2048
"""Bits."""
MAX_CHAIN: Final = 8
"""Certificates that a token may bring."""

_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_CURVES: Final = {SECP256R1.name: "ES256", SECP384R1.name: "ES384", SECP521R1.name: "ES512"}


class UnknownKey(Unauthenticated):
    """A token names a key that we do not have, or not yet."""


class UnusableKey(ValueError):
    """A key that verifies no token: the message says why."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, the algorithms it is good for, and the names it goes by."""

    key: PublicKey
    algorithms: frozenset[str]
    names: frozenset[str]

    @classmethod
    def of(cls, key: Any, *names: str, algorithm: str | None = None) -> Self:
        """`algorithm` restricts it to one. Raises UnusableKey."""
        fitting = _algorithms(key)
        if algorithm is not None and algorithm not in fitting:
            raise UnusableKey(f"it is not a key for {algorithm}")
        algorithms = fitting if algorithm is None else frozenset((algorithm,))
        return cls(key, algorithms, frozenset((*names, thumbprint(key), libtrust_id(key))))


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Keys, and certificates of authorities for further ones."""

    keys: Sequence[TrustedKey]
    authorities: Sequence[x509.Certificate] = ()

    @classmethod
    def of_jwks(cls, document: Any) -> Self:
        """The keys of a JWK Set (RFC 7517) that can verify tokens; others are passed over.

        Raises UnusableKey where there are no such keys.
        """
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise UnusableKey("it is not a JWK Set: an object with a list of keys")
        keys = list(_usable(entries))
        if not keys:
            raise UnusableKey("it has no public key that could verify a token")
        return cls(keys)

    @classmethod
    def of_certificates(cls, pem: bytes) -> Self:
        """Certificates as PEM, each trusted with its key and as an authority. Raises UnusableKey."""
        try:
            certificates = x509.load_pem_x509_certificates(pem)
            return cls([TrustedKey.of(one.public_key()) for one in certificates], certificates)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UnusableKey(str(error)) from None

    def __add__(self, other: "TrustedKeys") -> "TrustedKeys":
        return TrustedKeys([*self.keys, *other.keys], [*self.authorities, *other.authorities])

    def names(self) -> frozenset[str]:
        return frozenset(name for key in self.keys for name in key.names)

    def verify(
        self, token: UnverifiedToken, *, issuer: str, audience: str, algorithms: Iterable[str]
    ) -> Mapping[str, Any]:
        """What a token claims, once all of it is known to be true. Raises Unauthenticated, UnknownKey."""
        trusted = self._find(token.header)
        algorithm = token.header.get("alg")
        if algorithm not in trusted.algorithms or algorithm not in algorithms:
            raise Unauthenticated
        try:
            claims: dict[str, Any] = jwt.decode(
                token.text,
                trusted.key,
                [algorithm],
                audience=audience,
                issuer=issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "aud", "iss"]},
            )
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated from None
        return claims

    def _find(self, header: Mapping[str, Any]) -> TrustedKey:
        """Raises Unauthenticated, UnknownKey."""
        if "x5c" in header:
            return self._by_chain(header["x5c"])
        if "jwk" in header:
            return self._by_name(_thumbprint_of_jwk(header["jwk"]))
        if (name := header.get("kid")) is not None:
            return self._by_name(name)
        if len(self.keys) == 1:
            return self.keys[0]
        raise Unauthenticated

    def _by_name(self, name: Any) -> TrustedKey:
        for key in self.keys:
            if name in key.names:
                return key
        raise UnknownKey

    def _by_chain(self, chain: Any) -> TrustedKey:
        if not isinstance(chain, list) or not 0 < len(chain) <= MAX_CHAIN:
            raise Unauthenticated
        try:
            leaf, *others = [x509.load_der_x509_certificate(base64.b64decode(one, validate=True)) for one in chain]
            if leaf in self.authorities:
                _check_time(leaf)
            else:
                _verify_chain(leaf, others, self.authorities)
            return TrustedKey.of(leaf.public_key())
        except (binascii.Error, ValueError, TypeError, VerificationError, UnsupportedAlgorithm):
            raise Unauthenticated from None


def thumbprint(key: PublicKey) -> str:
    """The name of a key by RFC 7638, as distribution 3 has it."""
    fields = _as_jwk(key)
    members = {name: fields[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in fields}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def libtrust_id(key: PublicKey) -> str:
    """The name of a key by Docker's libtrust, as distribution 2 and its token servers have it: `ABCD:EFGH:…`."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(encoded).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def _usable(entries: Iterable[Any]) -> Iterable[TrustedKey]:
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct" or "d" in entry:
            continue
        name, algorithm = entry.get("kid"), entry.get("alg")
        try:
            key = jwt.PyJWK({field: value for field, value in entry.items() if field != "alg"}).key
            names = [name] if isinstance(name, str) else []
            yield TrustedKey.of(key, *names, algorithm=algorithm if isinstance(algorithm, str) else None)
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
            continue


def _algorithms(key: Any) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        if key.key_size < SHORTEST_RSA:
            raise UnusableKey(f"an RSA key has {key.key_size} bits; make one of at least {SHORTEST_RSA}")
        return _RSA
    if isinstance(key, Ed25519PublicKey):
        return frozenset(("EdDSA",))
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset((_CURVES[key.curve.name],))
    raise UnusableKey("a key is neither RSA, nor on the curves P-256, P-384, P-521 or Ed25519")


def _as_jwk(key: PublicKey) -> dict[str, Any]:
    if isinstance(key, RSAPublicKey):
        return RSAAlgorithm.to_jwk(key, as_dict=True)
    if isinstance(key, EllipticCurvePublicKey):
        return ECAlgorithm.to_jwk(key, as_dict=True)
    return OKPAlgorithm.to_jwk(key, as_dict=True)


def _thumbprint_of_jwk(jwk: Any) -> str:
    if isinstance(jwk, dict):
        for key in _usable([jwk]):
            return thumbprint(key.key)
    raise Unauthenticated


def _verify_chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> None:
    """Raises VerificationError, ValueError for no authorities.

    What certificates of token servers are for is written nowhere, so that of the leaf is not asked for.
    """
    policy = PolicyBuilder().store(Store(list(authorities))).time(datetime.now(UTC)).max_chain_depth(MAX_CHAIN)
    policy = policy.extension_policies(ca_policy=_AUTHORITY, ee_policy=ExtensionPolicy.permit_all())
    policy.build_client_verifier().verify(leaf, list(others))


def _check_time(certificate: x509.Certificate) -> None:
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise ValueError("the certificate is not valid now")


def _is_authority(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("not an authority's certificate")


def _may_sign(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for signing certificates")


_AUTHORITY: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
)
