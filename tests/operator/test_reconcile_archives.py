"""Archives of backups: what opens them is checked, and handed to the server alone."""

from base64 import b64decode, b64encode

import pytest
import yaml

from registry_operator.api.kinds import PERSISTENT_VOLUME_CLAIM, SECRET
from tests.operator.kube import Json
from tests.operator.reconcile_world import World
from tests.operator.test_reconcile_storage import claim

TO_CLAIM = {"backup": {"destination": {"claim": {"name": "backups"}}}}
TO_S3 = {"backup": {"destination": {"s3": {"bucket": "backups", "credentials": {"name": "keys"}}}}}
TO_GCS = {"backup": {"destination": {"gcs": {"bucket": "backups", "credentials": {"name": "keys"}}}}}
SIGNED = {"backup": {"destination": {"s3": {"bucket": "backups"}}, "signingKey": {"name": "keys"}}}
FROM_CLAIM = {"bootstrap": {"source": {"claim": {"name": "backups"}}}}

KEY = "0123456789abcdef0123456789abcdef"


def told(world: World, name: str = "team") -> Json:
    """The server's configuration."""
    return dict(yaml.safe_load(b64decode(world.the(SECRET, f"{name}-config")["data"]["config.yml"])))


@pytest.mark.parametrize("spec", [TO_CLAIM, FROM_CLAIM], ids=["backup", "bootstrap"])
def test_a_claim_that_is_missing_is_waited_for(world: World, spec: Json) -> None:
    world.create(spec)
    world.reconcile()
    reason, message = world.degraded()
    assert reason == "BackupClaimMissing"
    assert "there is no PersistentVolumeClaim backups: create it" in message
    assert world.get(PERSISTENT_VOLUME_CLAIM, "team-data") is None, "nothing begins before that"
    claim(world, "backups", "ReadWriteOnce")
    world.reconcile()
    assert world.condition("Degraded")[0] == "False"


def test_the_registry_s_own_volume_is_no_place_for_its_backup(world: World) -> None:
    world.create({"backup": {"destination": {"claim": {"name": "team-data"}}}})
    world.reconcile()
    assert world.degraded()[0] == "BackupClaimOwn"


def test_keys_come_from_a_secret_and_follow_it(world: World) -> None:
    world.create(TO_S3)
    world.reconcile()
    assert world.degraded()[0] == "BackupSecretMissing"
    world.secret("keys", AWS_ACCESS_KEY_ID="an id")
    world.reconcile()
    reason, message = world.degraded()
    assert reason == "BackupSecretInvalid"
    assert "Secret keys has no AWS_SECRET_ACCESS_KEY: add it" in message
    world.secret("keys", AWS_SECRET_ACCESS_KEY="a secret")
    world.reconcile()
    assert world.condition("Degraded")[0] == "False"
    assert told(world)["backup"]["destination"]["s3"]["secretkey"] == "a secret"
    world.secret("keys", AWS_SECRET_ACCESS_KEY="another secret")
    world.reconcile()
    assert told(world)["backup"]["destination"]["s3"]["secretkey"] == "another secret"


@pytest.mark.parametrize("key", ["no JSON", "[]"])
def test_a_key_of_google_s_that_is_none_is_refused(world: World, key: str) -> None:
    world.secret("keys", key__json=key)
    world.create(TO_GCS)
    world.reconcile()
    reason, message = world.degraded()
    assert reason == "BackupSecretInvalid"
    assert "isn't the JSON key of a service account" in message


def test_a_key_that_is_easily_guessed_is_refused(world: World) -> None:
    world.secret("keys", key="short")
    world.create(SIGNED)
    world.reconcile()
    assert world.degraded()[0] == "BackupKeyInvalid"
    world.secret("keys", key=f"{KEY}\n")
    world.reconcile()
    assert world.condition("Degraded")[0] == "False"
    assert world.the(SECRET, "team-config")["data"]["backup-key"] == b64encode(KEY.encode()).decode()


def test_secrets_are_told_to_nobody(world: World) -> None:
    """Neither by the status, nor by Events."""
    world.secret("keys", AWS_ACCESS_KEY_ID="an id", AWS_SECRET_ACCESS_KEY=b"\xff\xfe secret")
    world.create(TO_S3)
    world.reconcile()
    assert "secret" not in world.degraded()[1].replace("Secret", "")
