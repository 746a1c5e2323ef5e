"""Local validation says what a real API server says: each case is put before both."""

import itertools
import json
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from registry_operator.api.crd import crd
from registry_operator.api.registry import Registry
from registry_operator.cluster.local.schema import Invalid, UnsupportedSchema, Validator
from tests.fixtures.kubernetes import KubeAPI

Json = dict[str, Any]

THING_SPEC: Json = {
    "type": "object",
    "required": ["must"],
    "x-kubernetes-validations": [
        {"rule": "!has(self.a) || !has(self.b)", "message": "set a or b, not both"},
        {
            "rule": "quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
            "message": "size may grow, not shrink",
            "fieldPath": ".size",
            "reason": "FieldValueForbidden",
        },
        {"rule": "self.n < 9", "messageExpression": "self.must + ' has too big an n'"},
        {"rule": "self.must != 'norule'"},
        {"rule": "!has(self.__namespace__) || self.__namespace__ != self.must", "message": "namespace must differ"},
    ],
    "properties": {
        "must": {"type": "string", "minLength": 2, "maxLength": 8, "pattern": "^[a-z]+$"},
        "a": {
            "type": "object",
            "maxProperties": 1,
            "additionalProperties": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "!('bad' in self)", "message": "a is bad"}],
        },
        "b": {"type": "object", "properties": {"x": {"type": "string", "nullable": True}}},
        "namespace": {"type": "string", "maxLength": 8},
        "size": {
            "type": "string",
            "default": "10Gi",
            "maxLength": 16,
            "x-kubernetes-validations": [
                {
                    "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                    "message": "not a quantity",
                }
            ],
        },
        "n": {"type": "integer", "minimum": 1, "maximum": 10, "default": 2},
        "f": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
        "e": {"type": "string", "enum": ["z", "x", "y"]},
        "bo": {"type": "boolean"},
        "m": {"type": "integer", "multipleOf": 5},
        "l": {
            "type": "array",
            "maxItems": 2,
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["k"],
                "properties": {"k": {"type": "string", "default": "dk"}, "v": {"type": "string"}},
            },
        },
        "set": {"type": "array", "maxItems": 4, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {
            "type": "array",
            "maxItems": 4,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {
                "type": "object",
                "required": ["k"],
                "properties": {
                    "k": {"type": "string", "maxLength": 8},
                    "v": {
                        "type": "string",
                        "maxLength": 8,
                        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "v is immutable"}],
                    },
                },
            },
        },
        "io": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "dt": {"type": "string", "format": "date-time"},
        "nested": {"type": "object", "default": {}, "properties": {"z": {"type": "integer", "default": 7}}},
    },
}
THING_CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.validation.test"},
    "spec": {
        "group": "validation.test",
        "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": THING_SPEC,
                        },
                    }
                },
            }
        ],
    },
}
NUMBERS = itertools.count(1)


class Server:
    """The API server's judgement of one kind."""

    def __init__(self, api: httpx.Client, definition: Json) -> None:
        spec = definition["spec"]
        version = spec["versions"][0]["name"]
        self.api_version = f"{spec['group']}/{version}"
        self.kind = spec["names"]["kind"]
        self._api = api
        self._url = f"/apis/{self.api_version}/namespaces/default/{spec['names']['plural']}"
        self.validator = Validator(definition)
        name = definition["metadata"]["name"]
        query = {"fieldManager": "test", "force": "true"}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        url = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        api.patch(url, params=query, content=json.dumps(definition), headers=headers).raise_for_status()
        deadline = time.monotonic() + 30
        while self._api.get(self._url).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)

    def manifest(self, spec: Any, **metadata: Any) -> Json:
        """An object of the kind."""
        given = {} if spec is None else {"spec": spec}
        name = {"name": f"case-{next(NUMBERS)}"}
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": {**name, **metadata}, **given}

    def create(self, manifest: Json, *, dry: bool = True) -> Any:
        """What a creation gives: the spec as stored, or headline and sorted findings."""
        return self._outcome(self._api.post(self._url, params=self._query(dry), json=manifest), manifest)

    def replace(self, manifest: Json) -> Any:
        """What an update gives."""
        url = f"{self._url}/{manifest['metadata']['name']}"
        live = self._api.get(url).json()["metadata"]["resourceVersion"]
        body = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": live}}
        return self._outcome(self._api.put(url, params=self._query(dry=True), json=body), manifest)

    def ours(self, manifest: Json, old: Json | None = None) -> Any:
        """What local mode makes of it, in the same form."""
        try:
            return self.validator.admit(manifest, old)["spec"]
        except Invalid as invalid:
            return invalid.headline, sorted(invalid.lines)

    def _query(self, dry: bool) -> dict[str, str]:
        return {"fieldValidation": "Strict", **({"dryRun": "All"} if dry else {})}

    def _outcome(self, response: httpx.Response, manifest: Json) -> Any:
        answer = response.json()
        if response.is_success:
            return answer["spec"]
        causes = answer.get("details", {}).get("causes")
        if not causes:
            return answer["message"], []
        headline = f'The {self.kind} "{manifest["metadata"].get("name", "")}" is invalid:'
        return headline, sorted(f"{cause['field']}: {cause['message']}" for cause in causes)


@pytest.fixture(scope="module")
def api(kube_api: KubeAPI) -> Iterator[httpx.Client]:
    config = json.loads(kube_api.kubeconfig.read_text())
    token = config["users"][0]["user"]["token"]
    trust = ssl.create_default_context(cafile=kube_api.ca)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=kube_api.server, verify=trust, headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def things(api: httpx.Client) -> Server:
    """A kind whose schema uses every keyword."""
    return Server(api, THING_CRD)


@pytest.fixture(scope="module")
def registries(api: httpx.Client) -> Server:
    """Our own."""
    return Server(api, crd(Registry))


M = {"must": "abc"}


@pytest.mark.parametrize(
    "spec",
    [
        *(M, None, {}, {"must": "a"}, {"must": "abcdefghijk"}, {"must": "AB"}, {"must": 3}, {"must": None}, "str", []),
        *({**M, "nope": 1, "b": {"q": 2}}, {**M, "n": "x"}, {**M, "n": 0}, {**M, "n": 11}, {**M, "n": 9}),
        *({**M, "n": 1.5}, {**M, "n": True}, {**M, "f": 0}, {**M, "f": 1}, {**M, "f": "s"}, {**M, "e": "q"}),
        *({**M, "bo": "yes"}, {**M, "m": 7}, {**M, "l": []}, {**M, "l": [{}, {"v": 1}]}, {**M, "l": [{"k": "a"}] * 3}),
        *({**M, "l": [1]}, {**M, "l": [None]}, {**M, "l": "str"}, {**M, "l": {}}, {**M, "set": ["a", "a"]}),
        *(
            {**M, "map": [{"k": "a"}, {"k": "a"}]},
            {**M, "map": [{"k": "a", "zz": 1}]},
            {**M, "io": 1.5},
            {**M, "io": "5%"},
        ),
        *({**M, "io": [1]}, {**M, "free": {"x": {"y": 1}}}, {**M, "dt": "nodate"}, {**M, "dt": "2026-01-02T03:04:05Z"}),
        *({**M, "a": {}, "b": {}}, {**M, "a": {"p": "1", "q": "2"}}, {**M, "a": {"p": 1}}, {**M, "a": {"p": None}}),
        *({**M, "a": {"bad": "1"}}, {"must": "norule"}, {**M, "size": "x"}, {**M, "size": "0"}, {**M, "size": "1.5Gi"}),
        *(
            {**M, "size": "1e3"},
            {**M, "nested": {}},
            {**M, "nested": {"z": None}},
            {**M, "b": {"x": None}},
            {**M, "b": None},
        ),
        *({**M, "b": "str"}, {**M, "namespace": "abc"}, {**M, "namespace": "xyz"}, {"must": "A", "n": 11, "m": 7}),
        *({**M, "n": 9, "e": "q"}, {**M, "bo": 3, "n": "x"}, {"must": "Aé", "size": 3}),
    ],
    ids=lambda spec: json.dumps(spec, ensure_ascii=True),
)
def test_every_keyword(things: Server, spec: Any) -> None:
    """Types, bounds, defaults, unknown fields, lists and rules."""
    manifest = things.manifest(spec)
    assert things.ours(manifest) == things.create(manifest)


@pytest.mark.parametrize(
    "metadata",
    [
        *(
            {"name": "Bad_Name"},
            {"name": "x" * 254},
            {"name": "-x"},
            {"labels": {"a": "b c"}},
            {"labels": {"a": "b" * 64}},
        ),
        *({"labels": {"a": 1}}, {"annotations": {"a": True}}, {"annotations": {"a": "fine"}}, {"bogus": 1}),
    ],
    ids=lambda metadata: json.dumps(metadata)[:40],
)
def test_metadata(things: Server, metadata: Json) -> None:
    """Names, labels, annotations, unknown fields."""
    manifest = things.manifest(M, **metadata)
    assert things.ours(manifest) == things.create(manifest)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({**M, "size": "10Gi"}, {**M, "size": "10240Mi"}),
        ({**M, "size": "10Gi"}, {**M, "size": "9Gi"}),
        ({**M, "map": [{"k": "a", "v": "1"}]}, {**M, "map": [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}]}),
        ({**M, "map": [{"k": "a", "v": "1"}]}, {**M, "map": [{"k": "b", "v": "2"}, {"k": "a", "v": "3"}]}),
        ({**M, "map": [{"k": "a"}]}, {**M, "map": [{"k": "a", "v": "3"}]}),
    ],
    ids=json.dumps,
)
def test_transitions(things: Server, before: Json, after: Json) -> None:
    """Rules about `oldSelf` hold against what is stored, for list items by their key."""
    manifest = things.manifest(before)
    stored = {**manifest, "spec": things.create(manifest, dry=False)}
    changed = {**manifest, "spec": after}
    assert things.ours(changed, stored) == things.replace(changed)


REGISTRY_SPECS: list[Any] = [
    None,
    {},
    {"nope": 1},
    {"storage": {"filesystem": {"sise": "1Gi"}}},
    {"storage": {}},
    {"storage": {"filesystem": {"size": "x"}}},
    {"storage": {"filesystem": {"size": "0Gi"}}},
    {"storage": {"filesystem": {"size": 10}}},
    {"storage": {"filesystem": {"existingClaim": "c", "size": "1Gi"}}},
    {"storage": {"filesystem": {"accessModes": ["ReadWriteOnce", "ReadWriteOnce"]}}},
    {"tls": {"disabled": {}, "selfSigned": {}}},
    {"tls": {"secretRef": {}}},
    {"tls": {"secretRef": {"name": "Bad Name"}}},
    {"tls": None},
    {"replicas": 2},
    {"replicas": -1},
    {"replicas": "2"},
    {"replicas": 2, "storage": {"filesystem": {"accessModes": ["ReadWriteMany"]}}},
    {"service": {"port": 0}},
    {"service": {"type": "External"}},
    {"service": {"nodePort": 30000}},
    {"access": {"anonymous": "push"}},
    {"access": {"policies": [{"subjects": ["user:ci"], "repositories": ["**"], "role": "writer"}]}},
    {"access": {"policies": [{"subjects": ["user:admin"], "repositories": ["**"], "role": "writer"}]}},
    {"access": {"policies": [{"subjects": ["nobody"], "repositories": ["**"], "role": "writer"}]}},
    {"access": {"policies": [{"subjects": ["anonymous"], "repositories": ["A"], "role": "reader"}]}},
    {"access": {"policies": [{"subjects": ["anonymous"], "repositories": ["**"]}]}},
    {"access": {"policies": [{"subjects": [], "repositories": ["**"], "role": "reader"}]}},
    {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}},
    {"resources": {"limits": {"cpu": "one"}}},
    {"log": {"level": "loud"}, "image": {"tag": ""}},
    {"scheduling": {"affinity": {"anything": {"goes": 1}}, "tolerations": [{"key": "a", "operator": "Exists"}]}},
]


@pytest.mark.parametrize("spec", REGISTRY_SPECS, ids=json.dumps)
def test_registries(registries: Server, spec: Any) -> None:
    """The Registry's own schema and rules."""
    manifest = registries.manifest(spec)
    assert registries.ours(manifest) == registries.create(manifest)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"size": "10Gi"}, {"size": "20Gi"}),
        ({"size": "10Gi"}, {"size": "5Gi"}),
        ({}, {"size": "5Gi"}),
        ({"storageClassName": "fast"}, {"storageClassName": "slow"}),
        ({"existingClaim": "a"}, {"existingClaim": "b"}),
        ({"accessModes": ["ReadWriteOnce"]}, {}),
    ],
    ids=json.dumps,
)
def test_registry_storage_transitions(registries: Server, before: Json, after: Json) -> None:
    """A volume grows and never shrinks; what cannot be changed is refused."""
    manifest = registries.manifest({"storage": {"filesystem": before}})
    stored = {**manifest, "spec": registries.create(manifest, dry=False)}
    changed = {**manifest, "spec": {"storage": {"filesystem": after}}}
    assert registries.ours(changed, stored) == registries.replace(changed)


def test_a_keyword_that_would_be_ignored_is_refused() -> None:
    """Local validation never passes what it did not check."""
    unknown: Json = json.loads(json.dumps(THING_CRD))
    unknown["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["uniqueItems"] = True
    with pytest.raises(UnsupportedSchema, match=r"\.spec: .*uniqueItems"):
        Validator(unknown)
