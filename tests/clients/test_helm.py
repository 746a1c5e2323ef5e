"""Helm: charts as OCI artifacts."""

from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, Client
from tests.fixtures.processes import CommandFailed
from tests.fixtures.tools import Need
from tests.server.live import LiveRegistry

REFUSED = "401|unauthorized|denied|basic credential"


@pytest.fixture
def helm(need: Need, private: LiveRegistry, tmp_path: Path) -> Client:
    return Client(need("helm"), private, tmp_path)


@pytest.fixture
def chart(helm: Client, tmp_path: Path) -> Path:
    """A packaged chart."""
    helm("create", tmp_path / "ahoy")
    helm("package", tmp_path / "ahoy", "--version", "1.2.3+build.1", "--destination", tmp_path)
    return tmp_path / "ahoy-1.2.3+build.1.tgz"


def test_a_chart_is_pushed_after_a_login_and_pulled_by_its_version(helm: Client, chart: Path, tmp_path: Path) -> None:
    place = f"oci://{helm.at}/charts"
    with pytest.raises(CommandFailed, match=REFUSED):
        helm("push", chart, place)
    helm("registry", "login", helm.at, "--username", USER, "--password-stdin", input=PASSWORD)
    helm("push", chart, place)
    assert "version: 1.2.3+build.1" in helm("show", "chart", f"{place}/ahoy", "--version", "1.2.3+build.1")
    (pulled := tmp_path / "pulled").mkdir()
    helm("pull", f"{place}/ahoy", "--version", "^1.0.0", "--destination", pulled)
    assert (pulled / chart.name).read_bytes() == chart.read_bytes()
    helm("registry", "logout", helm.at)
    with pytest.raises(CommandFailed, match=REFUSED):
        helm("pull", f"{place}/ahoy", "--version", "1.2.3+build.1")
