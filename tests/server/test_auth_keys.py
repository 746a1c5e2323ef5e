"""Keys that tokens of others are verified by: which are found, and what never passes."""

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from registry_server.auth.authenticator import read_token
from registry_server.auth.keys import LEEWAY, MAX_CHAIN, TrustedKey, TrustedKeys, UnusableKey, libtrust_id, thumbprint
from registry_server.auth.login import Unauthenticated
from registry_server.config.model import ALGORITHMS

RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
ED25519 = ed25519.Ed25519PrivateKey.generate()
STRANGER = ec.generate_private_key(ec.SECP256R1())
SIGNED_BY: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": P256, "ES384": P384, "ES512": P521, "EdDSA": ED25519,
}  # fmt: skip


def trusting(*keys: Any) -> TrustedKeys:
    return TrustedKeys([TrustedKey.of(key.public_key()) for key in keys])


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    wanted = {"iss": "issuer", "aud": "service", "iat": now, "nbf": now, "exp": now + 300, "sub": "ci", **changes}
    return {name: value for name, value in wanted.items() if value is not None}


def mint(key: Any, algorithm: str, head: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers=head or {"kid": thumbprint(key.public_key())})


def verify(trusted: TrustedKeys, token: str, algorithms: Any = ALGORITHMS) -> dict[str, Any]:
    return dict(trusted.verify(read_token(token), issuer="issuer", audience="service", algorithms=algorithms))


def refused(trusted: TrustedKeys, token: str, algorithms: Any = ALGORITHMS) -> bool:
    try:
        verify(trusted, token, algorithms)
    except Unauthenticated:
        return True
    return False


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_every_signature_by_a_private_key_counts(self, algorithm: str) -> None:
        key = SIGNED_BY[algorithm]
        assert verify(trusting(key), mint(key, algorithm))["sub"] == "ci"

    def test_one_that_is_not_wanted_does_not(self) -> None:
        assert refused(trusting(RSA), mint(RSA, "RS256"), ["RS512"])

    def test_without_a_signature_nothing_counts(self) -> None:
        head = {"kid": thumbprint(P256.public_key())}
        assert refused(trusting(P256), jwt.encode(claims(), None, "none", headers=head))
        body = mint(P256, "ES256").rpartition(".")[0]
        assert refused(trusting(P256), f"{body}.")

    @pytest.mark.parametrize("key", [RSA, P256, ED25519], ids=["RSA", "EC", "Ed25519"])
    def test_a_public_key_is_no_shared_secret(self, key: Any) -> None:
        """Signed by what everyone can read, in each of its forms, as if that were a secret (CVE-2016-5431)."""
        public = key.public_key()
        head = {"alg": "HS256", "typ": "JWT", "kid": thumbprint(public)}
        for encoding, form in [(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                               (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)]:  # fmt: skip
            secret = public.public_bytes(encoding, form)
            parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (head, claims())]
            signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(b".".join(parts), secret)
            parts.append(base64.urlsafe_b64encode(signature).rstrip(b"="))
            assert refused(trusting(key), b".".join(parts).decode(), [*ALGORITHMS, "HS256"])

    def test_the_signature_of_a_stranger_does_not_count(self) -> None:
        head = {"kid": thumbprint(P256.public_key())}
        assert refused(trusting(P256), mint(STRANGER, "ES256", head))

    def test_a_changed_claim_breaks_the_signature(self) -> None:
        head, _, signature = mint(P256, "ES256").split(".")
        body = base64.urlsafe_b64encode(json.dumps(claims(sub="admin")).encode()).decode().rstrip("=")
        assert refused(trusting(P256), f"{head}.{body}.{signature}")


class TestClaims:
    @pytest.mark.parametrize(
        "change",
        [
            {"iss": "another"}, {"iss": None},
            {"aud": "another"}, {"aud": None}, {"aud": []}, {"aud": ["another"]},
            {"exp": None}, {"exp": 1}, {"exp": "soon"},
            {"nbf": 2**40}, {"iat": 2**40},
        ],
    )  # fmt: skip
    def test_what_does_not_pass(self, change: dict[str, Any]) -> None:
        assert refused(trusting(P256), mint(P256, "ES256", **change))

    def test_one_audience_of_several_is_enough(self) -> None:
        assert verify(trusting(P256), mint(P256, "ES256", aud=["another", "service"]))

    def test_clocks_may_differ_a_little(self) -> None:
        now = int(time.time())
        assert verify(trusting(P256), mint(P256, "ES256", nbf=now + LEEWAY // 2, iat=now + LEEWAY // 2))
        assert verify(trusting(P256), mint(P256, "ES256", exp=now - LEEWAY // 2))
        assert refused(trusting(P256), mint(P256, "ES256", exp=now - LEEWAY - 5))


class TestNames:
    def test_of_the_rfc_and_of_libtrust(self) -> None:
        """RFC 7638, 3.1; and one that libtrust made for a key of its own documentation's form."""
        document = {
            "kty": "RSA", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
            "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic"
            "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3"
            "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        }  # fmt: skip
        key = jwt.PyJWK(document).key
        assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        assert libtrust_id(key).count(":") == 11
        assert len(libtrust_id(key)) == 12 * 4 + 11

    @pytest.mark.parametrize("name", [thumbprint, libtrust_id])
    def test_a_key_is_found_by_each_of_its_names(self, name: Callable[[Any], str]) -> None:
        trusted = trusting(RSA, P256, ED25519)
        assert verify(trusted, mint(P256, "ES256", {"kid": name(P256.public_key())}))
        assert refused(trusted, mint(P256, "ES256", {"kid": name(RSA.public_key())}))
        assert refused(trusted, mint(STRANGER, "ES256", {"kid": name(STRANGER.public_key())}))

    @pytest.mark.parametrize("kid", [1, [], {}, ""])
    def test_a_name_that_is_none_finds_nothing(self, kid: Any) -> None:
        signed = jwt.PyJWS().encode(json.dumps(claims()).encode(), P256, "ES256", headers={"typ": "JWT"})
        head = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "kid": kid}).encode()).decode().rstrip("=")
        token = f"{head}.{signed.partition('.')[2]}"
        assert refused(trusting(RSA, P256), token)

    def test_without_a_name_the_only_key_is_meant(self) -> None:
        token = jwt.encode(claims(), P256, "ES256")
        assert verify(trusting(P256), token)
        assert refused(trusting(P256, RSA), token)

    def test_a_key_in_the_token_counts_only_if_it_is_trusted_anyway(self) -> None:
        for key, trusted in ((P256, True), (STRANGER, False)):
            head = {"jwk": ECAlgorithm.to_jwk(key.public_key(), as_dict=True)}
            assert refused(trusting(P256, RSA), mint(key, "ES256", head)) is not trusted


class TestJWKS:
    def test_all_kinds_of_keys_with_their_own_names(self) -> None:
        entries = [
            RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True),
            ECAlgorithm.to_jwk(P256.public_key(), as_dict=True),
            OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True),
        ]
        named = [{**entry, "kid": f"key {number}"} for number, entry in enumerate(entries)]
        trusted = TrustedKeys.of_jwks({"keys": named})
        for number, (key, algorithm) in enumerate([(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")]):
            assert verify(trusted, mint(key, algorithm, {"kid": f"key {number}"}))

    def test_a_key_that_names_its_algorithm_is_good_for_no_other(self) -> None:
        entry = {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "alg": "PS256"}
        trusted = TrustedKeys.of_jwks({"keys": [entry]})
        assert verify(trusted, mint(RSA, "PS256"))
        assert refused(trusted, mint(RSA, "RS256"))

    def test_what_verifies_nothing_is_passed_over(self) -> None:
        good = ECAlgorithm.to_jwk(P256.public_key(), as_dict=True)
        weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505  (that is the point)
        others = [
            None, "key", {}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC"}, {**good, "use": "enc"},
            {**good, "alg": "HS256"}, RSAAlgorithm.to_jwk(weak, as_dict=True),
            ECAlgorithm.to_jwk(STRANGER, as_dict=True),
        ]  # fmt: skip
        assert len(TrustedKeys.of_jwks({"keys": [*others, good]}).keys) == 1
        with pytest.raises(UnusableKey, match="no public key"):
            TrustedKeys.of_jwks({"keys": others})

    @pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, {"keys": []}])
    def test_a_document_without_keys_is_refused(self, document: Any) -> None:
        with pytest.raises(UnusableKey):
            TrustedKeys.of_jwks(document)


class Certified:
    """A certificate with its key."""

    def __init__(self, signer: "Certified | None" = None, *, ca: bool = False, days: int = 1) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {id(self)}")])
        issuer = signer or self
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer.name).subject_name(self.name).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10)).not_valid_after(now + timedelta(days=days))
        )  # fmt: skip
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(issuer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def mint(self, *chain: "Certified") -> str:
        encoded = [base64.b64encode(one.certificate.public_bytes(Encoding.DER)).decode() for one in chain]
        return mint(self.key, "ES256", {"x5c": encoded})


class TestChains:
    root = Certified(ca=True)
    between = Certified(root, ca=True)
    leaf = Certified(between)
    trusted = TrustedKeys.of_certificates(root.pem)

    def test_up_to_an_authority_in_the_bundle(self) -> None:
        assert verify(self.trusted, self.leaf.mint(self.leaf, self.between))
        direct = Certified(self.root)
        assert verify(self.trusted, direct.mint(direct))

    def test_a_certificate_in_the_bundle_is_enough_itself(self) -> None:
        alone = Certified()
        trusted = TrustedKeys.of_certificates(self.root.pem + alone.pem)
        assert verify(trusted, alone.mint(alone))
        assert verify(trusted, mint(alone.key, "ES256", {"kid": libtrust_id(alone.key.public_key())}))

    def test_what_is_no_chain(self) -> None:
        stranger, expired = Certified(ca=True), Certified(self.root, days=-1)
        strangers_leaf = Certified(stranger)
        below_a_leaf = Certified(self.leaf)
        for key, chain in [
            (self.leaf, [self.leaf]),
            (self.leaf, [self.between]),
            (strangers_leaf, [strangers_leaf, stranger]),
            (stranger, [stranger]),
            (expired, [expired]),
            (below_a_leaf, [below_a_leaf, self.leaf, self.between]),
            (self.leaf, []),
            (self.leaf, [self.leaf, *[self.between] * MAX_CHAIN]),
        ]:
            assert refused(self.trusted, key.mint(*chain))

    @pytest.mark.parametrize("chain", ["text", [1], ["!"], ["AAAA"], {}, None])
    def test_nonsense_is_refused(self, chain: Any) -> None:
        assert refused(self.trusted, mint(P256, "ES256", {"x5c": chain}))

    def test_without_a_bundle_no_chain_counts(self) -> None:
        assert refused(trusting(P256), self.leaf.mint(self.leaf, self.between))

    @pytest.mark.parametrize("pem", [b"", b"nonsense"])
    def test_a_bundle_without_certificates_is_refused(self, pem: bytes) -> None:
        with pytest.raises(UnusableKey):
            TrustedKeys.of_certificates(pem)


def test_a_public_key_alone_is_no_bundle() -> None:
    pem = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert load_pem_public_key(pem)
    with pytest.raises(UnusableKey):
        TrustedKeys.of_certificates(pem)
