"""The command line: `python -m tests.toolchain ensure [NAME…]`."""

import argparse
import os
import sys
import time
from typing import get_args

from tests.toolchain.catalog import TOOLS, Suite
from tests.toolchain.obtain import Unavailable, cache_dir, obtain
from tests.toolchain.progress import Progress


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.toolchain", description="The real programs that tests run against."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "ensure",
        help="find, download, build or install the tools that tests run against",
        description="Makes the tools available and shows where each comes from. A tool that cannot be had is reported, "
        "and its tests are skipped. Exit code 1 if it was asked for by name or REGATTA_REQUIRE_ALL=1.",
    )
    command.add_argument(
        "name", nargs="*", help=f"one or more of {', '.join(TOOLS)}; without any all that the suite needs"
    )
    command.add_argument(
        "--suite",
        choices=get_args(Suite),
        default="core",
        help="whose needs to see to when no name is given (%(default)s)",
    )
    parsed = parser.parse_args(arguments)
    names: list[str] = parsed.name
    if unknown := set(names) - set(TOOLS):
        parser.error(f"unknown tool {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    # Go is obtained when there is something to build.
    missing = _ensure(
        names or [tool.name for tool in TOOLS.values() if tool.name != "go" and tool.suite in ("core", parsed.suite)]
    )
    return int(missing and (bool(names) or os.environ.get("REGATTA_REQUIRE_ALL") == "1"))


def _ensure(names: list[str]) -> bool:
    """Obtains the tools, prints a table, and says whether one is missing."""
    start = time.monotonic()
    rows: list[tuple[str, str, str]] = []
    reasons: list[str] = []
    for name in names:
        try:
            found = obtain(TOOLS[name], Progress())
            rows.append((name, found.origin, str(found.path)))
        except Unavailable as failure:
            rows.append((name, "missing", "see below"))
            reasons.append("\n".join([f"{name} is missing, tests that need it are skipped:", *failure.reasons]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for row in rows:
        print(f"  {row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
    for reason in reasons:
        print(reason.replace("\n", "\n    "))
    print(f"{len(rows) - len(reasons)} of {len(rows)} tools in {time.monotonic() - start:.1f} s, cache {cache_dir()}")
    return bool(reasons)


if __name__ == "__main__":
    sys.exit(main())
