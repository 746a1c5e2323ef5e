"""oras: artifacts of any kind, and what refers to them."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, Client
from tests.fixtures.processes import CommandFailed
from tests.fixtures.tools import Need
from tests.server.live import LiveRegistry

REFUSED = "401|unauthorized|denied|basic credential"
SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


@pytest.fixture
def oras(need: Need, private: LiveRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Works in a folder of its own: it takes files by relative paths alone."""
    monkeypatch.chdir(tmp_path)
    return Client(need("oras"), private, tmp_path)


def test_what_is_attached_is_discovered_pulled_and_copied_along(oras: Client) -> None:
    artifact, copy = f"{oras.at}/oras/artifact:1", f"{oras.at}/oras/copy:1"
    for name in ("chart.txt", "sbom.json", "signature"):
        Path(name).write_text(f"content of {name}")
    with pytest.raises(CommandFailed, match=REFUSED):
        oras("push", artifact, "chart.txt:text/plain")
    oras("login", oras.at, "--username", USER, "--password-stdin", input=PASSWORD)
    oras("push", artifact, "--artifact-type=application/vnd.example.chart", "chart.txt:text/plain")
    oras("attach", artifact, f"--artifact-type={SBOM}", "sbom.json:application/json")
    oras("attach", artifact, f"--artifact-type={SIGNATURE}", "signature:application/octet-stream")
    assert _discovered(oras, artifact) == {SBOM, SIGNATURE}
    assert _discovered(oras, artifact, f"--artifact-type={SBOM}") == {SBOM}
    oras("copy", "--recursive", artifact, copy)
    assert _discovered(oras, copy) == {SBOM, SIGNATURE}
    (sbom,) = json.loads(oras("discover", copy, f"--artifact-type={SBOM}", "--format=json"))["referrers"]
    oras("pull", sbom["reference"], "--output=pulled")
    assert Path("pulled/sbom.json").read_text() == "content of sbom.json"
    assert oras("repo", "tags", f"{oras.at}/oras/copy").split() == ["1"]


def _discovered(oras: Client, artifact: str, *options: str) -> set[str]:
    """The types of what refers to an artifact."""
    found = json.loads(oras("discover", artifact, "--format=json", *options))["referrers"]
    return {one["artifactType"] for one in found}
