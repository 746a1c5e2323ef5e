"""What all tests share: the fixtures of `tests/fixtures/`, and what a run says and does at its end."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_DATABASES = {"postgresql", "own_postgresql", "mariadb", "pgbouncer"}
"""Fixtures of `tests/fixtures/databases.py`, and parameters that stand for them."""

_LONGEST = (
    "operator/test_scale.py",
    "server/test_access_kubernetes.py",
    "server/test_memory.py",
    "server/test_durability.py",
    "local/test_up.py",
    "server/test_proxy_pull.py",
    "conformance/test_conformance.py",
    "chart/test_rbac.py",
    "operator/test_runtime_operator.py",
    "server/test_notifications.py",
)
"""Files that take half a minute and more; a worker that begins one last keeps all others waiting."""

pytest_plugins = [
    "tests.fixtures.tools",
    "tests.fixtures.databases",
    "tests.fixtures.kubernetes",
    "tests.fixtures.docker",
]


def pytest_configure() -> None:
    """Makes SIGTERM end the run as Ctrl-C does, with the fixtures torn down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=143))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two a core, since tests wait for other processes about half of their time."""
    return min(2 * (os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests on other people's servers, which `make test-backends` runs, and puts the longest files first."""
    for item in items:
        if item.path.is_relative_to(_TESTS / "objectstore") or not _DATABASES.isdisjoint(_needs(item)):
            item.add_marker(pytest.mark.backends)
    places = {_TESTS / path: place for place, path in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def _needs(item: pytest.Item) -> set[object]:
    """The fixtures of a test, and the values of its parameters: names of drivers, perhaps."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*getattr(item, "fixturenames", ()), *(value for value in values if isinstance(value, str))}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was not tested here, and why."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("not tested on this machine (REGATTA_REQUIRE_ALL=1 fails instead)")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}")
