"""The manifests of `manifests/samples/`: each is one use, and each is right."""

from pathlib import Path

import pytest
import yaml

from registry_operator.api.kinds import SECRET
from registry_operator.api.registry import Registry
from registry_server.auth import htpasswd
from tests.operator.kube import Kube

SAMPLES = sorted(Path(__file__).parents[2].joinpath("manifests", "samples").glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
class TestSamples:
    """What people copy."""

    def test_the_api_server_takes_it(self, kube: Kube, namespace: str, sample: Path) -> None:
        """Strictly, without a warning, and with the rules of pod security in mind."""
        kube.api.kubectl("-n", namespace, "apply", "--validate=strict", "--warnings-as-errors", "-f", str(sample))
        kube.api.kubectl("-n", namespace, "delete", "registries", "--all")

    def test_it_says_what_it_is_for(self, sample: Path) -> None:
        """In its first line."""
        assert sample.read_text().startswith("# ")

    def test_its_users_are_users(self, sample: Path) -> None:
        """The server takes what stands in its Secrets, and the Registry names them."""
        documents = list(yaml.load_all(sample.read_text(), yaml.CSafeLoader))
        registry = Registry.model_validate(
            {**documents[0], "metadata": {**documents[0]["metadata"], "namespace": "any"}}
        )
        given = registry.spec.access.htpasswd
        secrets = {each["metadata"]["name"]: each for each in documents if each["kind"] == SECRET.name}
        assert set(secrets) == ({given.secret_ref.name} if given else set())
        for secret in secrets.values():
            assert htpasswd.parse(secret["stringData"]["htpasswd"], source="htpasswd")


def test_the_quickstart_is_there() -> None:
    """`make run` starts it."""
    assert "quickstart" in {sample.stem for sample in SAMPLES}
