"""The server's certificate: made and renewed, or taken from a Secret and checked."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from registry_operator.api.kinds import CONFIG_MAP, DEPLOYMENT, SECRET
from tests.operator.certificates import key_pem, make_certificate, verify
from tests.operator.reconcile_world import World

DAY = 24 * 3600


def load(pem: str) -> x509.Certificate:
    """The certificate of a PEM text."""
    return x509.load_pem_x509_certificate(pem.encode())


class TestOwnCertificate:
    """Without a certificate of their own, people get one."""

    @pytest.mark.parametrize("form", ["team", "team.{}", "team.{}.svc", "team.{}.svc.cluster.local"])
    def test_clients_that_trust_the_authority_accept_it(self, world: World, form: str) -> None:
        """By every name of the Service."""
        world.serve()
        authority = world.the(CONFIG_MAP, "team-ca")["data"]["ca.crt"]
        certificate = world.data("team-tls")["tls.crt"]
        verify(certificate, authority=authority, host=form.format(world.namespace), at=world.now)

    def test_its_life_is_told(self, world: World) -> None:
        """Where to find it, what to trust, until when."""
        world.serve()
        certificate = load(world.data("team-tls")["tls.crt"])
        assert world.status()["certificate"] == {
            "secretName": "team-tls",
            "notAfter": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "caConfigMapName": "team-ca",
        }
        assert certificate.not_valid_after_utc == world.now + timedelta(days=90)

    def test_the_authority_is_kept_from_the_pods(self, world: World) -> None:
        """Its key is where only the operator looks."""
        world.serve()
        volumes = world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]["volumes"]
        assert "team-ca" not in {volume.get("secret", {}).get("secretName") for volume in volumes}
        assert "tls.key" not in world.the(CONFIG_MAP, "team-ca")["data"]

    def test_it_is_renewed_at_two_thirds_of_its_life(self, world: World) -> None:
        """By the same authority, when the operator has said it would look, and without a rollout."""
        world.serve()
        before, authority = world.data("team-tls"), world.data("team-ca")
        generation = world.the(DEPLOYMENT, "team")["metadata"]["generation"]
        look_again = world.reconcile().requeue_after
        assert look_again is not None
        assert 59 * DAY < look_again <= 60 * DAY + 1
        world.pass_time(seconds=look_again - DAY)
        with world.without_writes():
            world.reconcile()
        world.pass_time(seconds=DAY)
        world.reconcile()
        after = world.data("team-tls")
        assert after["tls.crt"] != before["tls.crt"]
        assert after["tls.key"] != before["tls.key"]
        assert world.data("team-ca") == authority
        verify(after["tls.crt"], authority=authority["tls.crt"], host="team", at=world.now)
        assert world.the(DEPLOYMENT, "team")["metadata"]["generation"] == generation

    def test_the_authority_is_renewed_over_its_key(self, world: World) -> None:
        """Clients that trust the old one accept what is issued under the new one."""
        world.serve()
        before, authority_before = world.data("team-tls")["tls.crt"], world.data("team-ca")
        world.pass_time(days=3650 * 2 / 3 + 1)
        world.reconcile()
        after, authority_after = world.data("team-tls")["tls.crt"], world.data("team-ca")
        assert authority_after["tls.crt"] != authority_before["tls.crt"]
        assert authority_after["tls.key"] == authority_before["tls.key"]
        assert world.the(CONFIG_MAP, "team-ca")["data"]["ca.crt"] == authority_after["tls.crt"]
        assert after != before
        for authority in (authority_before, authority_after):
            verify(after, authority=authority["tls.crt"], host="team", at=world.now)

    @pytest.mark.parametrize("damage", ["", "bm8gY2VydGlmaWNhdGU="])
    @pytest.mark.parametrize("secret", ["team-tls", "team-ca"])
    def test_a_damaged_secret_is_mended(self, world: World, secret: str, damage: str) -> None:
        """Whatever somebody has put there."""
        world.serve()
        world.kube.merge(SECRET, world.namespace, secret, {"data": {"tls.crt": damage}})
        world.reconcile()
        authority = world.the(CONFIG_MAP, "team-ca")["data"]["ca.crt"]
        verify(world.data("team-tls")["tls.crt"], authority=authority, host="team", at=world.now)

    def test_one_of_another_authority_is_replaced(self, world: World) -> None:
        """As after the authority's Secret was lost."""
        world.serve()
        world.kube.delete(SECRET, world.namespace, "team-ca")
        world.reconcile()
        authority = world.the(CONFIG_MAP, "team-ca")["data"]["ca.crt"]
        verify(world.data("team-tls")["tls.crt"], authority=authority, host="team", at=world.now)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """A key as most people have it."""
    return rsa.generate_private_key(65537, 2048)


BY_SECRET = {"tls": {"secretRef": {"name": "certificate"}}}


class TestGivenCertificate:
    """A certificate from a Secret is checked before it is used."""

    def test_it_is_mounted_and_its_end_is_told(self, world: World, key: rsa.RSAPrivateKey) -> None:
        """And nothing of our own is made."""
        begin = world.now - timedelta(days=1)
        world.secret("certificate", tls__crt=make_certificate(key, begin, timedelta(days=30)), tls__key=key_pem(key))
        world.serve(BY_SECRET)
        assert "Secret/team-tls" not in world.children()
        assert world.status()["certificate"] == {"secretName": "certificate", "notAfter": "2026-01-30T00:00:00Z"}
        template = world.the(DEPLOYMENT, "team")["spec"]["template"]["spec"]
        assert "certificate" in {volume.get("secret", {}).get("secretName") for volume in template["volumes"]}
        assert world.condition("Ready")[0] == "True"

    def test_a_new_one_in_the_secret_rolls_nothing(self, world: World, key: rsa.RSAPrivateKey) -> None:
        """The server reads it again."""
        world.secret(
            "certificate", tls__crt=make_certificate(key, world.now, timedelta(days=30)), tls__key=key_pem(key)
        )
        world.serve(BY_SECRET)
        generation = world.the(DEPLOYMENT, "team")["metadata"]["generation"]
        world.secret("certificate", tls__crt=make_certificate(key, world.now, timedelta(days=60)))
        world.reconcile()
        assert world.status()["certificate"]["notAfter"] == "2026-03-02T00:00:00Z"
        assert world.the(DEPLOYMENT, "team")["metadata"]["generation"] == generation

    def test_a_missing_one_is_waited_for(self, world: World, key: rsa.RSAPrivateKey) -> None:
        """The Registry says so, and heals by itself."""
        world.create(BY_SECRET)
        world.reconcile()
        assert world.degraded() == (
            "CertificateMissing",
            "tls.secretRef: there is no Secret certificate: create it with tls.crt and tls.key",
        )
        assert world.condition("Ready")[:2] == ("False", "CertificateMissing")
        assert world.children() == []
        world.secret(
            "certificate", tls__crt=make_certificate(key, world.now, timedelta(days=30)), tls__key=key_pem(key)
        )
        world.reconcile()
        assert world.condition("Degraded")[0] == "False"

    def test_its_end_is_noticed(self, world: World, key: rsa.RSAPrivateKey) -> None:
        """At the time that the operator has said it would look."""
        world.secret(
            "certificate", tls__crt=make_certificate(key, world.now, timedelta(days=30)), tls__key=key_pem(key)
        )
        world.serve(BY_SECRET)
        world.pass_time(seconds=world.reconcile().requeue_after or 0)
        world.reconcile()
        reason, message = world.degraded()
        assert reason == "CertificateExpired"
        assert "expired on 2026-01-31" in message

    def test_faults_are_named(self, world: World, key: rsa.RSAPrivateKey) -> None:
        """Each in words that say what to do, none with the key in them."""
        good = {"tls__crt": make_certificate(key, world.now, timedelta(days=30)), "tls__key": key_pem(key)}
        other = ec.generate_private_key(ec.SECP256R1())
        world.create(BY_SECRET)
        faults = {
            "tls.crt isn't a certificate in PEM": {"tls__crt": "none"},
            "tls.key isn't a private key in PEM": {"tls__key": "none"},
            "store the two that belong together": {"tls__key": key_pem(other)},
            "tls.key has a passphrase": {"tls__key": key_pem(key, b"secret")},
            "isn't valid before 2026-02-": {
                "tls__crt": make_certificate(key, world.now + timedelta(days=40), timedelta(days=30))
            },
            "expired on 2025-12-01": {
                "tls__crt": make_certificate(key, world.now - timedelta(days=61), timedelta(days=30))
            },
        }
        for words, fault in faults.items():
            world.secret("certificate", **{**good, **fault})
            world.reconcile()
            _, message = world.degraded()
            assert words in message
            assert "PRIVATE KEY" not in str(world.status())
        world.kube.merge(SECRET, world.namespace, "certificate", {"data": {"tls.key": None}})
        world.reconcile()
        assert "has no tls.key" in world.degraded()[1]


class TestPlainHttp:
    """TLS may be turned off on purpose."""

    def test_there_is_no_certificate(self, world: World) -> None:
        """Neither made nor told of."""
        world.serve({"tls": {"disabled": {}}})
        assert "certificate" not in world.status()
        assert not {"Secret/team-tls", "Secret/team-ca", "ConfigMap/team-ca"} & set(world.children())
        assert world.reconcile().requeue_after is None
