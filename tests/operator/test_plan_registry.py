"""The plan: pure, so a Registry and what is known of the world give the children, byte for byte."""

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry_operator.api.placement import Placement
from registry_operator.api.registry import Registry
from registry_operator.plan import ArchiveSecrets, Facts, KeyPair, Login, OwnTls, plan_registry
from registry_operator.plan.render import render
from registry_server import config

Json = dict[str, Any]

POD = Placement(
    config_directory="/etc/regatta",
    tls_directory="/etc/regatta/tls",
    auth_directory="/etc/regatta/auth",
    data_directory="/var/lib/registry",
    backup_directory="/var/lib/regatta/backup",
    bootstrap_directory="/var/lib/regatta/bootstrap",
    listen=":5000",
    debug_listen=":5001",
    notice=timedelta(seconds=5),
    hosts=("team", "team.images.svc"),
    address="team.images.svc:5000",
)
PROCESS = Placement(
    config_directory="/state/config",
    tls_directory="/state/tls",
    auth_directory="/state/auth",
    data_directory="/state/data",
    backup_directory="/state/backup",
    bootstrap_directory="/state/bootstrap",
    listen="127.0.0.1:5000",
    debug_listen="127.0.0.1:20001",
    notice=timedelta(0),
    hosts=("localhost", "::1"),
    address="localhost:5000",
)
FACTS = Facts(
    own_tls=OwnTls(KeyPair("authority", "authority's key"), KeyPair("server", "server's key")),
    login=Login("admin", "password", "admin:$2b$hash"),
)


def registry(spec: Json | None = None, name: str = "team") -> Registry:
    """A Registry as the API server has it."""
    metadata = {"name": name, "namespace": "images", "uid": "3c5a"}
    return Registry.model_validate({"metadata": metadata, "spec": spec or {}})


def plan(spec: Json | None = None, facts: Facts = FACTS, placement: Placement = POD) -> dict[str, Json]:
    """The children by kind and ending of the name, as in `Secret-tls`."""
    children = plan_registry(registry(spec), facts, placement)
    return {f"{child['kind']}{child['metadata']['name'].removeprefix('team')}": child for child in children}


def settings(spec: Json | None = None, placement: Placement = POD, facts: Facts = FACTS) -> Json:
    """The server's configuration, as the server reads it."""
    text = base64.b64decode(plan(spec, facts, placement)["Secret-config"]["data"]["config.yml"])
    return dict(yaml.safe_load(text))


def container(child: Json) -> Json:
    """The one container of a Deployment."""
    (only,) = child["spec"]["template"]["spec"]["containers"]
    return dict(only)


class TestServerConfiguration:
    """What the server is told."""

    def test_the_server_takes_it(self, tmp_path: Path) -> None:
        """Without a warning, and writes it as it is."""
        here = replace(PROCESS, tls_directory=str(tmp_path), auth_directory=str(tmp_path), data_directory=str(tmp_path))
        for name in ("tls.crt", "tls.key", "htpasswd"):
            (tmp_path / name).touch()
        file = tmp_path / "config.yml"
        file.write_bytes(base64.b64decode(plan(placement=here)["Secret-config"]["data"]["config.yml"]))
        loaded = config.load(file, {})
        assert loaded.warnings == ()
        assert config.dump(loaded.config) == file.read_text()

    def test_it_differs_between_places_in_what_the_place_says_alone(self) -> None:
        """Local mode and the cluster run the same registry."""
        in_pod = config.dump(config.Config.model_validate(settings(placement=POD)))
        on_machine = config.dump(config.Config.model_validate(settings(placement=PROCESS)))
        replaced = (
            on_machine.replace("127.0.0.1:5000", ":5000")
            .replace("127.0.0.1:20001", ":5001")
            .replace("/state/data", "/var/lib/registry")
            .replace("/state/", "/etc/regatta/")
            .replace("notice: 0s", "notice: 5s")
        )
        assert replaced == in_pod

    def test_tls_is_on_unless_disabled(self) -> None:
        """Plain HTTP takes a decision."""
        assert settings()["http"]["tls"] == {
            "certificate": "/etc/regatta/tls/tls.crt",
            "key": "/etc/regatta/tls/tls.key",
        }
        assert "tls" not in settings({"tls": {"disabled": {}}})["http"]

    def test_a_login_is_always_asked_for(self) -> None:
        """What anonymous clients may do, policies say."""
        for spec in ({}, {"access": {"anonymous": "pull"}}, {"tls": {"disabled": {}}}):
            assert settings(spec)["auth"]["htpasswd"]["path"] == "/etc/regatta/auth/htpasswd"


EVERYWHERE = ["**"]
USERS = {"htpasswd": {"secretRef": {"name": "users"}}}
CI = {"subjects": ["user:ci"], "repositories": ["team/**"], "role": "writer"}


class TestAccess:
    """Who may do what, from the short forms of the spec."""

    @pytest.mark.parametrize(
        ("access", "policies"),
        [
            ({}, [{"subjects": ["user:admin"], "repositories": EVERYWHERE, "role": "admin"}]),
            (USERS, [{"subjects": ["authenticated"], "repositories": EVERYWHERE, "role": "admin"}]),
            ({**USERS, "policies": [CI]}, [CI]),
            ({**USERS, "policies": []}, []),
            (
                {**USERS, "anonymous": "pull", "policies": [CI]},
                [{"subjects": ["anonymous"], "repositories": EVERYWHERE, "actions": ["pull"]}, CI],
            ),
        ],
        ids=["generated login", "users", "users with policies", "users who may do nothing", "public"],
    )
    def test_it_becomes_policies(self, access: Json, policies: list[Json]) -> None:
        """And nothing beside them: the server refuses what no policy grants."""
        assert settings({"access": access})["access"]["policies"] == policies


class TestQuotas:
    """What repositories may take."""

    def test_they_are_the_server_s_in_bytes(self) -> None:
        quotas = [
            {"repositories": ["**"], "bytes": "1.5Gi", "tags": 500},
            {"repositories": ["team/**"], "together": True, "bytes": "500M"},
        ]
        assert settings({"quotas": quotas})["quotas"] == [
            {"repositories": ["**"], "bytes": 3 << 29, "tags": 500},
            {"repositories": ["team/**"], "together": True, "bytes": 500_000_000},
        ]

    def test_without_any_the_server_hears_nothing_of_them(self) -> None:
        """One of an older version knows no such block."""
        assert "quotas" not in settings()


class TestGarbageCollection:
    """When what nothing refers to is removed."""

    def test_it_is_the_server_s(self) -> None:
        asked = {"interval": "1h30m", "grace": "12h", "deleteUntagged": True}
        assert settings({"garbageCollection": asked})["garbagecollection"] == {
            "interval": "1h30m",
            "grace": "12h",
            "deleteuntagged": True,
        }

    def test_nothing_more_need_be_said_than_that_it_shall_be(self) -> None:
        assert settings({"garbageCollection": {}})["garbagecollection"]["interval"] == "24h"

    def test_without_it_the_server_hears_nothing_of_it(self) -> None:
        assert "garbagecollection" not in settings()

    def test_suspended_it_says_all_but_when(self) -> None:
        asked = {"interval": "6h", "grace": "12h", "suspend": True}
        assert settings({"garbageCollection": asked})["garbagecollection"] == {"grace": "12h", "deleteuntagged": False}


def backed_up(destination: Json, **more: Any) -> Json:
    return {"backup": {"destination": destination, **more}}


S3_KEYS = ArchiveSecrets({"AWS_ACCESS_KEY_ID": "an id", "AWS_SECRET_ACCESS_KEY": "a secret"})
GCS_KEY = ArchiveSecrets({"key.json": '{"type": "service_account", "private_key": "a secret"}'})
AZURE_KEY = ArchiveSecrets({"AZURE_STORAGE_KEY": "a secret"})


class TestBackup:
    """Copies of the registry, and the registry that begins with one."""

    def folder(self, spec: Json, name: str) -> Json:
        """Where a claim is mounted, and which part of it."""
        pod = plan(spec)["Deployment"]["spec"]["template"]["spec"]
        (claim,) = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if volume["name"] == name]
        (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == name]
        return {**mount, "claim": claim}

    def test_a_claim_s_folder_is_the_registry_s_alone(self) -> None:
        spec = backed_up({"claim": {"name": "backups"}})
        assert settings(spec)["backup"]["destination"] == {"filesystem": {"rootdirectory": "/var/lib/regatta/backup"}}
        assert self.folder(spec, "backup") == {
            "name": "backup",
            "claim": "backups",
            "mountPath": "/var/lib/regatta/backup",
            "subPath": "team",
        }
        spec = backed_up({"claim": {"name": "backups", "path": "fleet/team"}})
        assert self.folder(spec, "backup")["subPath"] == "fleet/team"

    @pytest.mark.parametrize(
        ("destination", "secrets", "driver"),
        [
            (
                {"s3": {"bucket": "b", "endpoint": "https://s3.example.com", "credentials": {"name": "keys"}}},
                S3_KEYS,
                {
                    "s3": {
                        "rootdirectory": "/images/team",
                        "bucket": "b",
                        "region": "us-east-1",
                        "regionendpoint": "https://s3.example.com",
                        "accesskey": "an id",
                        "secretkey": "a secret",
                        "forcepathstyle": False,
                    }
                },
            ),
            (
                {"s3": {"bucket": "b", "region": "eu-central-1", "prefix": "mine"}},
                ArchiveSecrets(),
                {
                    "s3": {
                        "rootdirectory": "mine",
                        "bucket": "b",
                        "region": "eu-central-1",
                        "forcepathstyle": False,
                    }
                },
            ),
            (
                {"gcs": {"bucket": "b", "credentials": {"name": "keys"}}},
                GCS_KEY,
                {
                    "gcs": {
                        "rootdirectory": "/images/team",
                        "bucket": "b",
                        "credentials": {"type": "service_account", "private_key": "a secret"},
                    }
                },
            ),
            (
                {"azure": {"accountName": "account", "container": "c", "credentials": {"name": "keys"}}},
                AZURE_KEY,
                {
                    "azure": {
                        "rootdirectory": "/images/team",
                        "accountname": "account",
                        "container": "c",
                        "accountkey": "a secret",
                    }
                },
            ),
        ],
        ids=["s3", "s3 by role", "gcs", "azure"],
    )
    def test_a_bucket_is_opened_by_its_secret(self, destination: Json, secrets: ArchiveSecrets, driver: Json) -> None:
        """The keys are in a Secret, as the rest of the configuration, and nowhere else."""
        facts = replace(FACTS, backup=secrets, bootstrap=secrets)
        spec = {**backed_up(destination), "bootstrap": {"source": destination}}
        told = settings(spec, facts=facts)
        assert told["backup"]["destination"] == told["bootstrap"]["source"] == driver
        others = {name: child for name, child in plan(spec, facts).items() if name != "Secret-config"}
        assert "a secret" not in str(others)

    def test_when_it_is_made(self) -> None:
        to = {"claim": {"name": "backups"}}
        assert settings(backed_up(to))["backup"]["interval"] == "24h"
        asked = {"schedule": "15 2 * * *", "timeZone": "Europe/Berlin", "immediate": True, "verify": True}
        told = settings(backed_up(to, keep={"last": 3, "daily": 7}, **asked))["backup"]
        assert told == {
            "schedule": "15 2 * * *",
            "timezone": "Europe/Berlin",
            "destination": told["destination"],
            "keep": {"last": 3, "daily": 7},
            "immediate": True,
            "verify": True,
        }
        suspended = settings(backed_up(to, schedule="15 2 * * *", suspend=True))["backup"]
        assert suspended.keys() == {"destination"}

    def test_keys_of_signatures_are_files_beside_the_configuration(self) -> None:
        claim = {"claim": {"name": "backups"}}
        spec = {
            **backed_up(claim, signingKey={"name": "key"}),
            "bootstrap": {"source": claim, "signingKey": {"name": "older-key"}},
        }
        keys = ArchiveSecrets(signing_key="a key"), ArchiveSecrets(signing_key="an older key")
        facts = replace(FACTS, backup=keys[0], bootstrap=keys[1])
        told, files = settings(spec, facts=facts), plan(spec, facts)["Secret-config"]["data"]
        for block, key in (("backup", b"a key"), ("bootstrap", b"an older key")):
            file = Path(told[block]["keyfile"])
            assert str(file.parent) == POD.config_directory
            assert base64.b64decode(files[file.name]) == key

    def test_a_registry_begins_with_a_run(self) -> None:
        source = {"claim": {"name": "backups", "path": "old-team"}}
        spec = {"bootstrap": {"source": source, "run": "20261126T020000Z"}}
        assert settings(spec)["bootstrap"] == {
            "source": {"filesystem": {"rootdirectory": "/var/lib/regatta/bootstrap"}},
            "run": "20261126T020000Z",
        }
        mount = self.folder(spec, "bootstrap")
        assert (mount["subPath"], mount["readOnly"]) == ("old-team", True)
        assert plan(spec)["Deployment"]["spec"]["progressDeadlineSeconds"] > 3600, "it takes as long as it takes"

    def test_a_scrub_is_once_a_week_unless_it_says_otherwise(self) -> None:
        assert settings({"scrub": {}})["scrub"] == {"rate": 20 << 20, "interval": "168h"}
        assert settings({"scrub": {"rate": "1Mi", "schedule": "0 4 * * 0"}})["scrub"] == {
            "rate": 1 << 20,
            "schedule": "0 4 * * 0",
        }


class TestRetention:
    """Tags that go."""

    RULES: ClassVar = [
        {"repositories": ["ci/**"], "tags": ["pr-*"], "keep": {"newerThan": "168h"}},
        {"repositories": ["**"], "exclude": ["latest"], "keep": {"last": 10, "pulledWithin": "720h", "patches": 1}},
    ]

    def test_its_rules_are_the_server_s(self) -> None:
        assert settings({"retention": {"rules": self.RULES, "schedule": "30 3 * * *"}})["retention"] == {
            "schedule": "30 3 * * *",
            "rules": [
                {"repositories": ["ci/**"], "tags": ["pr-*"], "keep": {"newerthan": "168h"}},
                {
                    "repositories": ["**"],
                    "exclude": ["latest"],
                    "keep": {"last": 10, "pulledwithin": "720h", "patches": 1},
                },
            ],
        }
        assert settings({"retention": {"rules": self.RULES}})["retention"]["interval"] == "24h"


class TestRollout:
    """Pods are replaced for what they can't take up while they run, and for nothing else."""

    def template(self, spec: Json | None = None, facts: Facts = FACTS) -> Json:
        """The pods' template."""
        return dict(plan(spec, facts)["Deployment"]["spec"]["template"])

    @pytest.mark.parametrize(
        "spec",
        [
            {"log": {"level": "debug"}},
            {"tls": {"disabled": {}}},
            {"image": {"tag": "2"}},
            {"resources": {"limits": {"cpu": 1}}},
            {"garbageCollection": {}},
        ],
    )
    def test_another_configuration_rolls(self, spec: Json) -> None:
        """The server reads it at its start."""
        assert self.template(spec) != self.template()

    @pytest.mark.parametrize(
        "spec",
        [
            {"access": {"anonymous": "pull"}},
            {"quotas": [{"repositories": ["**"], "tags": 5}]},
            {"retention": {"rules": TestRetention.RULES}},
            {"scrub": {"schedule": "0 4 * * 0"}},
            {"backup": {"destination": {"s3": {"bucket": "backups"}}}},
            {"bootstrap": {"source": {"s3": {"bucket": "backups"}}}},
        ],
        ids=["policy", "quota", "retention", "scrub", "backup", "bootstrap"],
    )
    def test_what_the_server_follows_does_not(self, spec: Json) -> None:
        """Nor what it looks at in its first life alone."""
        assert self.template(spec) == self.template()
        assert plan(spec)["Secret-config"] != plan()["Secret-config"]

    def test_another_certificate_or_password_does_not(self) -> None:
        """The server reads them again."""
        other = Facts(
            own_tls=OwnTls(KeyPair("authority 2", "key 2"), KeyPair("server 2", "key 2")),
            login=Login("admin", "password 2", "admin:$2b$hash2"),
        )
        assert self.template(facts=other) == self.template()

    @pytest.mark.parametrize(
        "spec",
        [
            {"service": {"type": "NodePort", "port": 443}},
            {"storage": {"filesystem": {"size": "20Gi"}}},
            {"networkPolicy": {"enabled": False}},
        ],
    )
    def test_what_is_none_of_the_pods_business_does_not(self, spec: Json) -> None:
        """Services and sizes change around running pods."""
        assert self.template(spec) == self.template()

    def test_a_pod_has_time_to_drain(self) -> None:
        """Endpoints forget it, then the server finishes what is under way, then it ends."""
        pod = plan()["Deployment"]["spec"]["template"]["spec"]
        told = settings()["shutdown"]["notice"], settings()["http"]["draintimeout"]
        assert pod["terminationGracePeriodSeconds"] > sum(config.parse_duration(each).total_seconds() for each in told)


class TestPods:
    """What runs, and with which rights."""

    def test_it_may_write_nowhere_but_to_its_volume(self) -> None:
        """And to a small scratch directory."""
        mounts = container(plan()["Deployment"])["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == {"/var/lib/registry", "/tmp"}  # noqa: S108

    def test_the_operators_version_runs_unless_said_otherwise(self) -> None:
        """A tag of your own stays."""
        from importlib.metadata import version

        assert container(plan()["Deployment"])["image"] == f"regatta/registry-server:{version('regatta')}"
        image = {"repository": "mirror.example.com/registry", "tag": "9"}
        assert container(plan({"image": image})["Deployment"])["image"] == "mirror.example.com/registry:9"

    def test_probes_ask_the_debug_port(self) -> None:
        """Which needs neither certificate nor login; only readiness asks for the storage."""
        registry = container(plan()["Deployment"])
        asked = {name: registry[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: each["path"] for name, each in asked.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert {each["port"] for each in asked.values()} == {"debug"}

    def test_replicas_are_spread_by_themselves(self) -> None:
        """Nobody has to repeat the labels."""
        spec = {"scheduling": {"topologySpreadConstraints": [{"topologyKey": "zone"}]}}
        deployment = plan(spec)["Deployment"]
        (constraint,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert constraint["labelSelector"] == deployment["spec"]["selector"]


class TestNetworkPolicy:
    """Who may connect."""

    CI: ClassVar = {"namespaceSelector": {"matchLabels": {"team": "ci"}}}
    PROMETHEUS: ClassVar = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "prometheus"}}}

    @pytest.mark.parametrize(
        ("spec", "rules"),
        [
            ({}, [{"ports": [5000]}]),
            ({"metricsFrom": []}, [{"ports": [5000]}]),
            ({"metricsFrom": [PROMETHEUS]}, [{"ports": [5000]}, {"ports": [5001], "from": [PROMETHEUS]}]),
            ({"clientsFrom": [CI]}, [{"ports": [5000], "from": [CI]}]),
            (
                {"clientsFrom": [CI], "metricsFrom": [PROMETHEUS]},
                [{"ports": [5000], "from": [CI]}, {"ports": [5001], "from": [PROMETHEUS]}],
            ),
        ],
        ids=["by default", "nobody named", "metrics", "clients", "both"],
    )
    def test_the_registry_is_open_and_its_metrics_closed_unless_said_otherwise(
        self, spec: Json, rules: list[Json]
    ) -> None:
        """A rule without `from` admits everyone; a port in no rule, nobody."""
        found = plan({"networkPolicy": spec})["NetworkPolicy"]["spec"]
        assert found["policyTypes"] == ["Ingress"]
        assert [{**rule, "ports": [port["port"] for port in rule["ports"]]} for rule in found["ingress"]] == rules

    def test_it_is_about_this_registrys_pods_and_their_ports(self) -> None:
        """Of which it forgets none."""
        children = plan({"networkPolicy": {"metricsFrom": [self.PROMETHEUS]}})
        deployment, policy = children["Deployment"], children["NetworkPolicy"]
        assert policy["spec"]["podSelector"] == deployment["spec"]["selector"]
        named = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert named == {port["containerPort"] for port in container(deployment)["ports"]}

    def test_it_is_there_before_the_pods(self) -> None:
        """None is unprotected for a moment."""
        kinds = [child["kind"] for child in plan_registry(registry(), FACTS, POD)]
        assert kinds.index("NetworkPolicy") < kinds.index("Deployment")

    def test_it_may_be_switched_off(self) -> None:
        """Where others of the namespace say who may connect."""
        assert "NetworkPolicy" not in plan({"networkPolicy": {"enabled": False}})


class TestTemplates:
    """Values reach the manifests as they are."""

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Nothing that a person writes breaks out of its place, or is read as something else."""
        service = registry({"service": {"annotations": {"note": text}}}).spec.service
        metadata = {"name": "team", "annotations": service.annotations}
        assert render("service", metadata=metadata, service=service, selector={}, tls=True)["metadata"] == metadata

    def test_a_missing_value_is_an_error(self) -> None:
        """Not an empty place in a manifest."""
        with pytest.raises(TypeError, match="Undefined"):
            render("service_account")
