"""The Registry's CRD on a real API server: what it accepts, fills in, shows, and rejects with which words."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from registry_operator.api import crd
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import CommandFailed
from tests.operator.kube import install_crds

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api(kube_api: KubeAPI) -> KubeAPI:
    """The API server, with the CRD in force."""
    install_crds(kube_api)
    kube_api.kubectl("wait", "--for=condition=Established", "crd/registries.regatta.dev")
    return kube_api


@pytest.fixture
def namespace(api: KubeAPI) -> str:
    """A namespace of the test's own."""
    return api.namespace("crd")


class Registries:
    """Creates and changes Registries as a person would, by kubectl."""

    def __init__(self, api: KubeAPI, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def apply(self, spec: Json | None = None, name: str = "team") -> Json:
        """Applies a Registry, strictly, and returns it as stored."""
        manifest = {
            "apiVersion": "regatta.dev/v1alpha1",
            "kind": "Registry",
            "metadata": {"name": name, "namespace": self.namespace},
            **({} if spec is None else {"spec": spec}),
        }
        text = json.dumps(manifest)
        stored = self.api.kubectl("apply", "--validate=strict", "-o", "json", "-f", "-", input=text)
        return dict(json.loads(stored))

    def rejection(self, spec: Json) -> str:
        """What the API server says against a Registry."""
        with pytest.raises(CommandFailed) as refused:
            self.apply(spec)
        return str(refused.value)


@pytest.fixture
def registries(api: KubeAPI, namespace: str) -> Iterator[Registries]:
    """Registries in the test's namespace, until it ends: other tests' operators shall not find them."""
    yield Registries(api, namespace)
    api.kubectl("-n", namespace, "delete", "registries", "--all")


class TestDefaults:
    """What the API server fills in."""

    def test_a_registry_without_a_spec_is_complete(self, registries: Registries) -> None:
        """TLS and login are on, and one replica keeps its content on a volume."""
        assert registries.apply()["spec"] == {
            "storage": {"filesystem": {}},
            "tls": {"selfSigned": {}},
            "access": {"anonymous": "none"},
            "service": {"type": "ClusterIP", "port": 5000},
            "networkPolicy": {"enabled": True},
            "replicas": 1,
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "scheduling": {},
            "image": {"repository": "regatta/registry-server", "pullPolicy": "IfNotPresent"},
            "log": {"level": "info"},
        }

    def test_they_are_what_the_types_say(self, registries: Registries) -> None:
        """The API server and Python agree on an empty spec."""
        from registry_operator.api.registry import RegistrySpec

        stored = registries.apply({})["spec"]
        assert RegistrySpec.model_validate(stored) == RegistrySpec()


BAD_SPECS: dict[str, tuple[Json, str]] = {
    "an unknown field": ({"storage": {"filesystem": {"sise": "1Gi"}}}, 'unknown field "spec.storage.filesystem.sise"'),
    "a storage that there is not": (
        {"storage": {"filesystem": {}, "s3": {"bucket": "images"}}},
        'unknown field "spec.storage.s3"',
    ),
    "no storage": ({"storage": {}}, "spec.storage: Invalid value: filesystem must be given"),
    "two storages": (
        {"storage": {"filesystem": {"existingClaim": "images", "size": "1Gi"}}},
        "existingClaim brings its own size, storage class and access modes",
    ),
    "a size of nothing": ({"storage": {"filesystem": {"size": "0Gi"}}}, "must be a size above zero, such as 10Gi"),
    "a size that is none": ({"storage": {"filesystem": {"size": "10 GB"}}}, "must be a size above zero, such as 10Gi"),
    "plain HTTP together with a certificate": (
        {"tls": {"disabled": {}, "secretRef": {"name": "certificate"}}},
        "exactly one must be given: selfSigned, secretRef or disabled",
    ),
    "no way to be reached": ({"tls": {}}, "exactly one must be given: selfSigned, secretRef or disabled"),
    "replicas on a volume of one node": (
        {"replicas": 2},
        "replicas above 1 need a volume that several nodes can mount",
    ),
    "negative replicas": ({"replicas": -1}, "spec.replicas: Invalid value"),
    "a node port without a node's port": (
        {"service": {"nodePort": 30500}},
        "nodePort needs type NodePort or LoadBalancer",
    ),
    "nobody as clients": ({"networkPolicy": {"clientsFrom": []}}, "spec.networkPolicy.clientsFrom: Invalid value"),
    "a peer that is nobody": (
        {"networkPolicy": {"metricsFrom": [{}]}},
        "either ipBlock must be given, or namespaceSelector, podSelector or both",
    ),
    "a peer that is both pods and addresses": (
        {"networkPolicy": {"clientsFrom": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}},
        "either ipBlock must be given, or namespaceSelector, podSelector or both",
    ),
    "a range that is none": (
        {"networkPolicy": {"clientsFrom": [{"ipBlock": {"cidr": "10.0.0.1"}}]}},
        "must be a range of addresses, such as 192.0.2.0/24",
    ),
    "a comparison with nothing": (
        {"networkPolicy": {"metricsFrom": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In"}]}}]}},
        "operators In and NotIn need values, Exists and DoesNotExist have none",
    ),
    "a port that is none": ({"service": {"port": 70000}}, "spec.service.port: Invalid value"),
    "a role with actions": (
        {
            "access": {
                "policies": [
                    {"subjects": ["authenticated"], "repositories": ["**"], "role": "reader", "actions": ["pull"]}
                ]
            }
        },
        "exactly one of role and actions must be given",
    ),
    "neither a role nor actions": (
        {"access": {"policies": [{"subjects": ["authenticated"], "repositories": ["**"]}]}},
        "exactly one of role and actions must be given",
    ),
    "an unknown subject": (
        {"access": {"policies": [{"subjects": ["group:dev"], "repositories": ["**"], "role": "reader"}]}},
        "must be anonymous (everyone), authenticated (everyone who has logged in) or user:NAME",
    ),
    "a subject twice": (
        {"access": {"policies": [{"subjects": ["anonymous", "anonymous"], "repositories": ["**"], "role": "reader"}]}},
        "Duplicate value",
    ),
    "a repository that can't be": (
        {"access": {"policies": [{"subjects": ["anonymous"], "repositories": ["/Team"], "role": "reader"}]}},
        "must be a repository's name",
    ),
    "policies for users that are nowhere": (
        {"access": {"policies": [{"subjects": ["user:ci"], "repositories": ["**"], "role": "writer"}]}},
        "policies name users, but htpasswd names no Secret to find them in",
    ),
    "a quota of a size that is none": (
        {"quotas": [{"repositories": ["**"], "bytes": "much"}]},
        "must be a size above zero",
    ),
    "a collection without a grace": (
        {"garbageCollection": {"grace": "5s"}},
        "grace must be ten minutes at least",
    ),
    "a retention that keeps nothing": (
        {"retention": {"rules": [{"repositories": ["**"], "keep": {}}]}},
        "give last, newerThan, pulledWithin or patches",
    ),
    "a retention without rules": ({"retention": {"rules": []}}, "should have at least 1 items"),
    "two times for one thing": (
        {"scrub": {"schedule": "0 4 * * 0", "interval": "24h"}},
        "schedule and interval say the same",
    ),
    "a time zone of nothing": ({"scrub": {"timeZone": "Europe/Berlin"}}, "timeZone is that of a schedule"),
    "a schedule that is none": ({"scrub": {"schedule": "daily"}}, "as in crontab: 15 2 * * *"),
    "a backup to nowhere": ({"backup": {"destination": {}}}, "exactly one must be given: claim, s3, gcs or azure"),
    "a backup without a destination": ({"backup": {}}, "destination"),
    "a folder outside": (
        {"backup": {"destination": {"claim": {"name": "backups", "path": "../others"}}}},
        "must be a folder within the claim",
    ),
    "a run that is none": (
        {"bootstrap": {"source": {"claim": {"name": "backups"}}, "run": "last"}},
        "must be a run, such as 20261126T020000Z",
    ),
    "a time that is none": ({"garbageCollection": {"interval": "daily"}}, "must be a time such as 24h"),
    "a quota of nothing": ({"quotas": [{"repositories": [], "tags": 1}]}, "should have at least 1 items"),
    "a pull secret twice": ({"image": {"pullSecrets": [{"name": "a"}, {"name": "a"}]}}, "Duplicate value"),
    "a name that is none": (
        {"access": {"htpasswd": {"secretRef": {"name": "Team Users"}}}},
        "must be an object's name",
    ),
}


class TestRejections:
    """The API server itself refuses what can't work, in words that a person can act on."""

    @pytest.mark.parametrize("fault", BAD_SPECS)
    def test_it_rejects(self, api: KubeAPI, fault: str) -> None:
        """Each of these manifests; nothing is stored, so they share a namespace."""
        spec, words = BAD_SPECS[fault]
        assert words in Registries(api, "default").rejection(spec)


CLAIM = {"storage": {"filesystem": {"existingClaim": "images"}}}


class TestChanges:
    """What may change while the registry holds content."""

    def test_storage_grows(self, registries: Registries) -> None:
        """Whatever unit the sizes are given in."""
        registries.apply({"storage": {"filesystem": {"size": "1000Mi"}}})
        stored = registries.apply({"storage": {"filesystem": {"size": "1Gi"}}})
        assert stored["spec"]["storage"]["filesystem"]["size"] == "1Gi"

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ({"size": "10Gi"}, {"size": "9.5Gi"}, "size can't shrink"),
            ({"size": "20Gi"}, {}, "size can't shrink"),
            ({}, {"size": "1Gi"}, "size can't shrink"),
            ({"storageClassName": "fast"}, {"storageClassName": "slow"}, "storageClassName can't be changed"),
            ({}, {"storageClassName": "fast"}, "storageClassName can't be changed"),
            ({}, {"accessModes": ["ReadWriteMany"]}, "accessModes can't be changed"),
            ({"existingClaim": "images"}, {"existingClaim": "others"}, "existingClaim can't be changed"),
            ({"existingClaim": "images"}, {}, "existingClaim can't be changed"),
            ({}, {"existingClaim": "images"}, "existingClaim can't be changed"),
        ],
    )
    def test_what_would_lose_content_is_rejected(
        self, registries: Registries, before: Json, after: Json, words: str
    ) -> None:
        """A claim is made once."""
        registries.apply({"storage": {"filesystem": before}})
        assert words in registries.rejection({"storage": {"filesystem": after}})

    def test_a_registry_begins_once(self, registries: Registries) -> None:
        """A backup is named when it is created; it may be corrected, or removed once all is there."""
        bootstrap = {"source": {"claim": {"name": "backups"}}}
        registries.apply({})
        assert "bootstrap fills a new Registry" in registries.rejection({"bootstrap": bootstrap})
        registries.apply({"bootstrap": bootstrap}, name="other")
        registries.apply({"bootstrap": {**bootstrap, "run": "20261126T020000Z"}}, name="other")
        registries.apply({}, name="other")

    def test_naming_the_default_changes_nothing(self, registries: Registries) -> None:
        """What was left out may be said later."""
        registries.apply({})
        registries.apply({"storage": {"filesystem": {"size": "10Gi", "accessModes": ["ReadWriteOnce"]}}})

    @pytest.mark.parametrize(
        "storage", [{"accessModes": ["ReadWriteMany"]}, {"existingClaim": "images"}], ids=["shared", "existing"]
    )
    def test_shared_storage_takes_replicas(self, registries: Registries, storage: Json) -> None:
        """Only the cluster knows the modes of a claim that exists."""
        assert registries.apply({"storage": {"filesystem": storage}, "replicas": 3})["spec"]["replicas"] == 3


class TestAsPeopleSeeIt:
    """kubectl's view."""

    def test_columns_short_name_and_category(self, registries: Registries) -> None:
        """Ready, Host, Storage, Version and Age tell the state at a glance."""
        registries.apply({})
        status = {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Available",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "observedGeneration": 1,
                }
            ],
            "address": "team.images.svc:5000",
            "storage": {"claimName": "team-data", "size": "10Gi"},
            "version": "1.2.3",
        }
        in_namespace = ("--namespace", registries.namespace)
        registries.api.kubectl(
            *in_namespace,
            "patch",
            "reg",
            "team",
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps({"status": status}),
        )
        header, row = registries.api.kubectl(*in_namespace, "get", "reg").splitlines()
        assert header.split() == ["NAME", "READY", "HOST", "STORAGE", "VERSION", "BACKUP", "AGE"]
        assert row.split()[:-1] == ["team", "True", "team.images.svc:5000", "10Gi", "1.2.3"]
        assert "registry.regatta.dev/team" in registries.api.kubectl(*in_namespace, "get", "all")

    def test_status_is_not_the_users(self, registries: Registries) -> None:
        """The status is a subresource: who edits the Registry can't write it."""
        stored = registries.apply({})
        assert stored["metadata"]["generation"] == 1
        assert "status" not in stored

    def test_every_field_is_explained(self) -> None:
        """`kubectl explain` answers for each."""

        def silent(schema: Json, path: str) -> list[str]:
            members = {**schema.get("properties", {}), **({"[]": schema["items"]} if "items" in schema else {})}
            own = [path] if "description" not in schema and not path.endswith("[]") else []
            return own + [each for name, member in members.items() for each in silent(member, f"{path}.{name}")]

        versions = crd.crd(crd.KINDS[0])["spec"]["versions"]
        properties = versions[0]["schema"]["openAPIV3Schema"]["properties"]
        assert silent(properties["spec"], "spec") + silent(properties["status"], "status") == []
