"""The alerts on registries, judged by Prometheus itself: they fire when they shall, and else they don't."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_server.metrics import MEASURED
from tests.chart.charts import CHART, ROOT, Helm, Json, one
from tests.fixtures.processes import run
from tests.fixtures.tools import Need

ALERTS = CHART / "files" / "alerts.yaml"
RULES: list[Json] = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
RUNBOOKS = ROOT / "docs" / "runbooks"

TEAM = {"namespace": "images", "registry": "team"}
DAY, HOUR = 86_400, 3_600


def series(metric: str, value: float, **labels: str) -> Json:
    """A metric of one of the registry's pods that stays as it is for days."""
    named = {**TEAM, "pod": "team-1", **labels}
    inner = ", ".join(f'{name}="{text}"' for name, text in named.items())
    return {"series": f"{metric}{{{inner}}}", "values": f"{value}x20000"}


def judged(promtool: Path, folder: Path, given: list[Json], *, at: int) -> dict[str, set[str]]:
    """The alerts that fire `at` so many seconds after 1970, each with its labels `name`."""
    fires: dict[str, set[str]] = {}
    for rule in RULES:
        test = {
            "interval": "30s",
            "input_series": given,
            "alert_rule_test": [{"eval_time": f"{at}s", "alertname": rule["alert"], "exp_alerts": []}],
        }
        file = folder / "test.yaml"
        file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
        said = _failures(promtool, file)
        if said:
            fires[rule["alert"]] = set(re.findall(r'\bname="([^"]+)"', said)) or {""}
    return fires


def _failures(promtool: Path, file: Path) -> str:
    """What promtool says where alerts fire, as none is expected."""
    from tests.fixtures.processes import CommandFailed

    try:
        run(promtool, "test", "rules", file)
    except CommandFailed as failure:
        said = failure.stderr + failure.stdout
        assert "got:" in said, said
        return said.partition("got:")[2]
    return ""


@pytest.fixture(scope="module")
def promtool(need: Need) -> Path:
    return need("promtool")


def good(name: str, *, ended: int, period: int = DAY) -> list[Json]:
    """A job whose last run came to a good end."""
    return [
        series("regatta_job_success", 1, name=name),
        series("regatta_job_last_success_timestamp_seconds", ended, name=name),
        series("regatta_job_period_seconds", period, name=name),
    ]


def failed(name: str, *, succeeded: int, period: int = DAY) -> list[Json]:
    """A job whose last run failed."""
    return [series("regatta_job_success", 0, name=name), *good(name, ended=succeeded, period=period)[1:]]


class TestFiring:
    def test_nothing_while_all_is_well(self, promtool: Path, tmp_path: Path) -> None:
        jobs = [*good("backup", ended=0), *good("scrub", ended=0, period=7 * DAY), *good("garbage-collect", ended=0)]
        given = [*jobs, series("regatta_job_bytes", 500, name="scrub", what="whole")]
        assert judged(promtool, tmp_path, given, at=2 * DAY) == {}

    def test_a_backup_that_failed(self, promtool: Path, tmp_path: Path) -> None:
        given = failed("backup", succeeded=0)
        assert judged(promtool, tmp_path, given, at=60) == {}, "it may be tried again"
        assert judged(promtool, tmp_path, given, at=HOUR) == {"RegattaBackupFailed": {""}}

    def test_no_backup_for_two_periods(self, promtool: Path, tmp_path: Path) -> None:
        given = good("backup", ended=0)
        assert judged(promtool, tmp_path, given, at=2 * DAY + HOUR) == {}
        assert judged(promtool, tmp_path, given, at=2 * DAY + 2 * HOUR) == {"RegattaBackupOld": {""}}

    def test_damage(self, promtool: Path, tmp_path: Path) -> None:
        given = [*good("scrub", ended=0), series("regatta_job_bytes", 7, name="scrub", what="quarantined")]
        assert judged(promtool, tmp_path, given, at=HOUR) == {"RegattaContentDamaged": {""}}
        healed = [*good("scrub", ended=0), series("regatta_job_bytes", 7, name="scrub", what="healed")]
        assert judged(promtool, tmp_path, healed, at=HOUR) == {}

    @pytest.mark.parametrize("name", ["garbage-collect", "retention"])
    def test_another_job_that_failed(self, promtool: Path, tmp_path: Path, name: str) -> None:
        assert judged(promtool, tmp_path, failed(name, succeeded=0), at=HOUR) == {"RegattaJobFailed": {name}}

    @pytest.mark.parametrize("name", ["garbage-collect", "retention", "scrub"])
    def test_another_job_that_is_not_done(self, promtool: Path, tmp_path: Path, name: str) -> None:
        given = good(name, ended=0)
        assert judged(promtool, tmp_path, given, at=2 * DAY + HOUR) == {}
        assert judged(promtool, tmp_path, given, at=2 * DAY + 2 * HOUR) == {"RegattaJobOld": {name}}

    def test_of_several_pods_the_newest_word_counts(self, promtool: Path, tmp_path: Path) -> None:
        """Each reads the same storage; one that was started anew may know less for a moment."""
        period = series("regatta_job_period_seconds", DAY, name="backup")
        newer = series("regatta_job_last_success_timestamp_seconds", 2 * DAY, name="backup", pod="team-2")
        given = [series("regatta_job_last_success_timestamp_seconds", 0, name="backup"), newer, period]
        assert judged(promtool, tmp_path, given, at=2 * DAY + 2 * HOUR) == {}


def test_each_has_its_runbook_and_each_runbook_its_alert() -> None:
    named = {rule["annotations"]["runbook"]: rule["alert"] for rule in RULES}
    assert len(named) == len(RULES)
    assert {ROOT / path for path in named} == set(RUNBOOKS.glob("*.md"))
    for path, alert in named.items():
        assert (ROOT / path).read_text().startswith(f"# {alert}\n")


def test_they_ask_for_metrics_that_there_are() -> None:
    asked: set[str] = {name for rule in RULES for name in re.findall(r"regatta_\w+", rule["expr"])}
    assert asked <= {family.name for family in MEASURED}
    assert len(asked) == 4


def test_the_chart_installs_them(helm: Helm) -> None:
    values: dict[str, Any] = {"metrics": {"registries": {"rules": {"enabled": True}}}}
    rule = one(helm.template(values), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert not [each for each in helm.template() if each["kind"] == "PrometheusRule"]


def test_registries_are_scraped_with_their_names(helm: Helm) -> None:
    values: dict[str, Any] = {"metrics": {"registries": {"podMonitor": {"enabled": True}}}}
    monitor = one(helm.template(values), "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "debug"
    assert endpoint["relabelings"][0]["targetLabel"] == "registry"
