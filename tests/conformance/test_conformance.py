"""The official conformance suite of the OCI distribution specification: nothing failed, nothing skipped."""

import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.server.conftest import METADATA, metadata_settings
from tests.server.live import LiveRegistry, serving


@dataclass(frozen=True)
class Profile:
    """One way to run the suite, and what that way itself leaves out."""

    version: str
    environ: dict[str, str]
    disabled: set[str] = field(default_factory=set)


RELEASED = Profile(
    "1.1",
    {},
    disabled={
        "Blob upload cancel",
        "Manifest put with tag params",
        "Sparse Manifests",
        "Tag Param",
        "Tag Param sha512",
    },
)
DRAFT = Profile("dev", {"OCI_DATA_SPARSE": "true"})


def test_the_released_specification_in_full(conformance: Path, tmp_path: Path) -> None:
    """With a login, not with tokens: one for a repository mounts nothing from others, which the suite calls a skip."""
    with serving(tmp_path, users={"ci": "secret"}, workers=2) as registry:
        _assert_conforms(conformance, registry, RELEASED)


@pytest.mark.parametrize("driver", METADATA)
def test_the_draft_of_the_next_one_with_sparse_manifests(
    driver: str, request: pytest.FixtureRequest, conformance: Path, tmp_path: Path
) -> None:
    """Over TLS with a login, on each metadata driver."""
    settings = {"manifests": {"sparse": "all"}, **metadata_settings(driver, request, tmp_path)}
    with serving(tmp_path, settings, users={"ci": "secret"}, tls=True, workers=2) as registry:
        _assert_conforms(conformance, registry, DRAFT)


def _assert_conforms(conformance: Path, registry: LiveRegistry, profile: Profile) -> None:
    results = registry.folder / "results"
    results.mkdir()
    done = subprocess.run(
        [conformance],
        cwd=results,  # so that no configuration file of the tree is found
        env={
            **os.environ,
            "OCI_REGISTRY": registry.address,
            "OCI_TLS": "enabled" if registry.authority else "disabled",
            "OCI_REPO1": "conformance/one",
            "OCI_REPO2": "conformance/two",
            "OCI_USERNAME": "ci",
            "OCI_PASSWORD": "secret",
            "OCI_VERSION": profile.version,
            "OCI_RESULTS_DIR": str(results),
            **({"SSL_CERT_FILE": str(registry.authority.ca)} if registry.authority else {}),
            **profile.environ,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    report = f"see {results / 'report.html'}"
    assert (results / "results.yaml").exists(), f"{done.stdout}\n{done.stderr}"
    outcome: dict[str, Any] = yaml.safe_load((results / "results.yaml").read_text())
    outcomes = {**outcome["apis"], **outcome["data"]}
    not_passed = {name: result for name, result in outcomes.items() if result != "Pass"}
    assert not_passed == dict.fromkeys(profile.disabled, "Disabled"), f"{report}\n{_failures(results)}"
    suite = ElementTree.parse(results / "junit.xml").getroot()  # noqa: S314, our own file
    counts = {name: int(suite.get(name, 0)) for name in ("failures", "errors", "skipped")}
    assert counts == {"failures": 0, "errors": 0, "skipped": 0}, report
    statuses = Counter(case.get("status") for case in suite.iter("testcase"))
    assert set(statuses) <= {"passed", "skipped"}, report
    assert statuses["skipped"] == (2 if "Blob upload cancel" in profile.disabled else 0), report  # sha256 and sha512
    assert int(suite.get("tests", 0)) > 600, f"the suite ran less than it has; {report}"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{report}"


def _failures(results: Path) -> str:
    """The tests that did not pass, with what they said."""
    suite = ElementTree.parse(results / "junit.xml").getroot()  # noqa: S314, our own file
    cases = [case for case in suite.iter("testcase") if case.get("status") not in ("passed", "skipped")]
    return "\n".join(f"{case.get('name')}: {case.findtext('system-out') or ''}" for case in cases[:10])


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OCI_"):
            monkeypatch.delenv(name)
