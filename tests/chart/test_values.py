"""What the chart makes of its values: everything that it renders the API server takes, and the rest it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_operator.api import crd
from tests.chart.charts import CHART, RELEASE, Helm, Json, kinds, one
from tests.fixtures.kubernetes import KubeAPI
from tests.fixtures.processes import CommandFailed
from tests.operator.kube import Kube

PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
DIGEST = f"sha256:{'0' * 64}"

VALUES: dict[str, Json] = {
    "defaults": {},
    "high availability": {
        "replicas": 2,
        "priorityClassName": "system-cluster-critical",
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "terminationGracePeriodSeconds": 60,
    },
    "one namespace, without rights in the cluster": {
        "watch": {"namespaces": ["default"]},
        "crds": {"enabled": False},
        "rbac": {"clusterScoped": False},
    },
    "several namespaces": {"watch": {"namespaces": ["default", "kube-public"]}, "rbac": {"userRoles": False}},
    "a mirror with a login": {
        "image": {"repository": "mirror.example:5000/regatta/operator", "digest": DIGEST, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "mirror"}],
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/ssl/mirror.pem"}],
    },
    "an account of one's own": {
        "serviceAccount": {"create": False, "name": "registries"},
        "rbac": {"create": False},
        "fullnameOverride": "fleet",
    },
    "marks": {
        "nameOverride": "registries",
        "commonLabels": {"team": "platform"},
        "commonAnnotations": {"example.com/contact": "platform@example.com"},
        "podLabels": {"sidecar.istio.io/inject": "false"},
        "podAnnotations": {"example.com/scrape": "true"},
        "serviceAccount": {"annotations": {"example.com/role": "registries"}},
    },
    "openshift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "no keeping, no policy": {"crds": {"keep": False}, "networkPolicy": {"enabled": False}},
    "logs and load": {
        "log": {"format": "text", "verbose": True},
        "workers": 32,
        "resyncSeconds": 60,
        "resources": {"requests": {"cpu": 1}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "metrics": {"port": 9090, "service": {"enabled": True}},
        "test": {"timeoutSeconds": 30},
    },
}
MONITORED: Json = {
    "metrics": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "serviceMonitor": {"enabled": True, "interval": "1m30s"},
        "registries": {
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        },
    },
    "networkPolicy": {"metricsFrom": [PROMETHEUS]},
}


def assert_taken(api: KubeAPI, objects: list[Json]) -> None:
    """The API server takes the objects: by schema, validation and pod security, without a warning."""
    text = yaml.safe_dump_all(objects)
    strictly = ("--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "--warnings-as-errors")
    api.kubectl("apply", *strictly, "--filename=-", input=text)


class TestWhatIsRendered:
    @pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
    def test_the_api_server_takes(self, values: Json, helm: Helm, kube: Kube, system: str) -> None:
        """In a namespace that enforces restricted pods."""
        assert_taken(kube.api, helm.template(values, namespace=system))

    def test_with_monitors_it_takes_too(self, helm: Helm, kube: Kube, system: str, monitoring: None) -> None:
        """By the Prometheus operator's own schemas."""
        objects = helm.template(MONITORED, namespace=system)
        assert {"PodMonitor", "ServiceMonitor", "Service"} <= kinds(objects)
        assert_taken(kube.api, objects)

    def test_has_no_fault_that_lint_knows(self, helm: Helm) -> None:
        helm("lint", "--strict", CHART)
        helm("lint", "--strict", CHART, values=MONITORED)

    def test_of_crds_is_what_the_types_say(self, helm: Helm) -> None:
        """Rendered through Helm's idea of numbers and texts nothing is lost."""
        rendered = {each["metadata"]["name"]: each for each in helm.template() if each["kind"].startswith("Custom")}
        expected = [yaml.safe_load(text) for text in crd.documents().values()]
        assert rendered.keys() == {each["metadata"]["name"] for each in expected}
        for each in expected:
            assert rendered[each["metadata"]["name"]]["spec"] == each["spec"]

    def test_asks_for_monitors_only_where_told(self, helm: Helm) -> None:
        """As their CRDs may be missing."""
        assert not {"PodMonitor", "ServiceMonitor", "Service"} & kinds(helm.template())

    def test_protects_from_disruption_what_has_replicas(self, helm: Helm) -> None:
        """With a single one a budget would only hold up its node's draining."""
        assert "PodDisruptionBudget" not in kinds(helm.template())
        budget = one(helm.template({"replicas": 2}), "PodDisruptionBudget")
        assert (
            budget["spec"]["selector"]["matchLabels"].items() <= pod(helm.template({"replicas": 2}))["labels"].items()
        )

    def test_admits_to_the_metrics_who_is_named_and_nobody_else(self, helm: Helm) -> None:
        closed = one(helm.template(), "NetworkPolicy")["spec"]
        assert "ingress" not in closed
        assert closed["policyTypes"] == ["Ingress"]
        opened = one(helm.template(MONITORED), "NetworkPolicy")["spec"]
        assert opened["ingress"] == [{"from": [PROMETHEUS], "ports": [{"port": "metrics", "protocol": "TCP"}]}]
        assert opened["podSelector"]["matchLabels"].items() <= pod(helm.template(MONITORED))["labels"].items()

    def test_makes_nothing_without_a_namespace_where_that_is_forbidden(self, helm: Helm) -> None:
        values = VALUES["one namespace, without rights in the cluster"]
        assert not {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"} & kinds(helm.template(values))

    def test_leaves_user_and_groups_to_the_cluster_where_they_are_null(self, helm: Helm) -> None:
        assert pod(helm.template(VALUES["openshift"]), "spec")["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }

    def test_carries_the_marks_asked_for(self, helm: Helm) -> None:
        """None of which replaces one of ours."""
        theft = {"commonLabels": {"team": "a", "app.kubernetes.io/name": "b"}, "podLabels": {"x": "y"}}
        for each in helm.template(theft):
            assert each["metadata"]["labels"]["team"] == "a"
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] == RELEASE
        labels = pod(helm.template(theft))["labels"]
        assert (labels["team"], labels["x"], labels["app.kubernetes.io/name"]) == ("a", "y", RELEASE)

    def test_names_images_by_digest_if_given(self, helm: Helm) -> None:
        container = pod(helm.template(VALUES["a mirror with a login"]), "spec")["containers"][0]
        assert container["image"] == f"mirror.example:5000/regatta/operator@{DIGEST}"


class TestWhatIsRefused:
    """In words that name the value."""

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"replica": 2}, "'replica' not allowed"),
            ({"image": {"tagg": "1"}}, "'/image': additional properties 'tagg' not allowed"),
            ({"replicas": "two"}, "'/replicas': got string, want integer"),
            ({"image": {"tag": 1.5}}, "'/image/tag': got number, want string"),
            ({"image": {"repository": "regatta/operator:1"}}, "'/image/repository'"),
            ({"image": {"digest": "latest"}}, "'/image/digest'"),
            ({"log": {"format": "xml"}}, "'/log/format': value must be one of 'json', 'text'"),
            ({"workers": 0}, "'/workers': minimum: got 0, want 1"),
            ({"metrics": {"port": 80}}, "'/metrics/port': minimum: got 80, want 1,024"),
            ({"watch": {"namespaces": ["Team_A"]}}, "'/watch/namespaces/0'"),
            ({"terminationGracePeriodSeconds": 5}, "'/terminationGracePeriodSeconds': minimum"),
            ({"imagePullSecrets": ["mirror"]}, "'/imagePullSecrets/0': got string, want object"),
            ({"networkPolicy": {"metricsFrom": [{}]}}, "'/networkPolicy/metricsFrom/0'"),
            ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "'/podDisruptionBudget/maxUnavailable'"),
            ({"commonLabels": {"team": "a b"}}, "'/commonLabels/team'"),
            ({"rbac": {"clusterScoped": False}}, "name the namespaces in watch.namespaces"),
            ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
            ({"metrics": {"podMonitor": {"enabled": True}}}, "networkPolicy.metricsFrom"),
        ],
        ids=str,
    )
    def test_says_why(self, values: Json, words: str, helm: Helm) -> None:
        assert words in helm.refusal(values)

    def test_is_what_values_yaml_does_not_have(self) -> None:
        """Each value that may be given has a default and stands in values.yaml, where people look."""
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        assert properties(schema, schema["definitions"]) - {"global", "resources.claims"} == leaves(values)


class TestVersions:
    def test_of_the_chart_alone_restart_no_pod(self, helm: Helm, tmp_path: Path) -> None:
        """What is new in the chart is nothing to the operator's pods, unless their template changes."""
        newer = shutil.copytree(CHART, tmp_path / "regatta")
        metadata = yaml.safe_load((newer / "Chart.yaml").read_text()) | {"version": "99.0.0"}
        (newer / "Chart.yaml").write_text(yaml.safe_dump(metadata))
        before, after = (one(helm.template(chart=chart), "Deployment") for chart in (CHART, newer))
        assert before != after
        assert before["spec"] == after["spec"]

    def test_are_those_of_kubernetes_that_the_crds_need(self, helm: Helm) -> None:
        with pytest.raises(CommandFailed, match=r"requires kubeVersion: >=1\.29"):
            helm("template", RELEASE, CHART, "--kube-version=1.28")


class TestArtifactHub:
    ANNOTATIONS = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]

    def test_lists_the_crds_that_there_are(self) -> None:
        listed = yaml.safe_load(self.ANNOTATIONS["artifacthub.io/crds"])
        expected = [yaml.safe_load(text) for text in crd.documents().values()]
        assert [(each["name"], each["kind"], each["version"]) for each in listed] == [
            (each["metadata"]["name"], each["spec"]["names"]["kind"], each["spec"]["versions"][0]["name"])
            for each in expected
        ]

    def test_shows_examples_that_work(self, kube: Kube) -> None:
        assert_taken(kube.api, yaml.safe_load(self.ANNOTATIONS["artifacthub.io/crdsExamples"]))

    def test_lists_the_images_that_run(self, helm: Helm) -> None:
        images = {each["image"] for each in yaml.safe_load(self.ANNOTATIONS["artifacthub.io/images"])}
        assert pod(helm.template(), "spec")["containers"][0]["image"] in images


def pod(objects: list[Json], part: str = "metadata") -> Any:
    """A part of the operator's pod template."""
    return one(objects, "Deployment")["spec"]["template"][part]


def properties(schema: Json, definitions: Json, prefix: str = "") -> set[str]:
    """The paths of what a schema lets people set."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        return {prefix.removesuffix(".")}
    members = schema["properties"].items()
    return set().union(*(properties(member, definitions, f"{prefix}{name}.") for name, member in members))


def leaves(values: Any, prefix: str = "") -> set[str]:
    """The paths of the values, down to where the schema lets people write what they like."""
    free = ("nodeSelector", "podSecurityContext", "securityContext", "resources.requests", "resources.limits")
    if not isinstance(values, dict) or not values or prefix.removesuffix(".") in free:
        return {prefix.removesuffix(".")}
    return set().union(*(leaves(value, f"{prefix}{name}.") for name, value in values.items()))
