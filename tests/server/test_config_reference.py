"""Every setting that distribution knows, each alone and all at once: what becomes of it is what the reference says."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry_server.cli import main
from registry_server.config import ConfigError, load
from registry_server.config.distribution import nested
from registry_server.config.reference import KNOWN_TO_DISTRIBUTION, Known, Row, dotted, markdown, outcome_of, own, rows

BASE: dict[str, Any] = {"version": 0.1, "storage": {"filesystem": {}}}
REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.parametrize("known", KNOWN_TO_DISTRIBUTION, ids=lambda known: dotted(known.path))
def test_each_is_treated_as_the_reference_says(tmp_path: Path, known: Known) -> None:
    row = outcome_of(known)
    faults = [fault for fault in faults_of(tmp_path, known) if "does not exist" not in fault]
    if row.outcome == "refused":
        assert any(says_refused(fault, row) or f": {place(known)}: " in fault for fault in faults), faults
    else:
        assert not any(f": {place(known)}: " in fault for fault in faults), faults


def test_all_at_once_are_refused_by_name_where_the_reference_says_so(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(json.dumps(merged(BASE, *(nested(known.path, known.example) for known in KNOWN_TO_DISTRIBUTION))))
    result = CliRunner().invoke(main, ["config", "check", str(config)], env={})
    assert result.exit_code == 2
    faults = result.stderr.splitlines()
    refused = [row for row in rows() if row.outcome == "refused"]
    for row in refused:
        assert sum(f": {row.name}: " in fault for fault in faults) == 1, row.name
    others = [fault for fault in faults if not any(says_refused(fault, row) for row in refused)]
    assert [fault for fault in others if "is not a setting" in fault or "does not implement" in fault] == []


def test_the_documentation_has_it() -> None:
    """Write it with `make reference`."""
    assert REFERENCE.read_text() == markdown()


def test_a_file_that_says_something_else_fails_the_check(tmp_path: Path) -> None:
    file = tmp_path / "configuration.md"
    run = CliRunner()
    assert run.invoke(main, ["config", "reference", "--write", str(file)]).exit_code == 0
    assert run.invoke(main, ["config", "reference", "--check", str(file)]).exit_code == 0
    file.write_text(file.read_text().replace("works", "does not", 1))
    assert run.invoke(main, ["config", "reference", "--check", str(file)]).exit_code == 1


def test_our_own_settings_are_told_apart() -> None:
    names = {row.name for row in own()}
    assert {"access.policies[].role", "manifests.sparse", "notifications.endpoints[].format"} <= names
    assert "http.addr" not in names


def place(known: Known) -> str:
    """The setting as faults name it."""
    return dotted(known.path).replace("[]", "[0]")


def says_refused(fault: str, row: Row) -> bool:
    return f": {row.name}: is a setting of distribution's that Regatta does not implement" in fault


def faults_of(folder: Path, known: Known) -> tuple[str, ...]:
    config = folder / "config.yml"
    config.write_text(json.dumps(merged(BASE, nested(known.path, known.example))))
    try:
        load(config, {})
    except ConfigError as error:
        return error.faults
    return ()


def merged(*settings: Any) -> Any:
    """Several settings as one: maps are merged, and the elements of lists with those at the same place."""
    first, *others = settings
    for other in others:
        if isinstance(first, dict) and isinstance(other, dict):
            both = first.keys() & other.keys()
            first = first | other | {key: merged(first[key], other[key]) for key in both}
        elif isinstance(first, list) and isinstance(other, list) and isinstance(first[0], dict):
            first = [merged(first[0], other[0])]
        else:
            first = other
    return first
