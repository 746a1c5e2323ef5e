"""What the commands that copy have in common: how they tell what they do, and how far they are."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
from pydantic import ByteSize

if TYPE_CHECKING:
    from registry_server.jobs.copying import Copied, Planned, Problem
    from registry_server.jobs.runs import Outcome

FORMAT: Final = click.option("--format", "as_", type=click.Choice(["text", "json"]), default="text", show_default=True)
SAY_EVERY: Final = 10.0
"""Seconds between two lines that say how far the work is, where no person looks."""


@dataclass(slots=True)
class Account:
    """What has been done so far."""

    contents: int = 0
    bytes: int = 0
    planned: "Planned | None" = None
    problems: list[str] = field(default_factory=list)
    incomplete: bool = False
    """Whether another try may bring more."""

    def tell(self, event: "Planned | Copied | Problem") -> None:
        from registry_server.jobs.copying import Copied, Planned, Problem

        match event:
            case Planned():
                self.planned = event
                self.plan(event)
            case Copied():
                self.contents += 1
                self.bytes += event.size
                self.advance(event.size)
            case Problem():
                self.problems.append(event.text)
                self.complain(event.text)

    def so_far(self) -> "Outcome":
        """How much of what there is to copy is copied."""
        from registry_server.jobs.runs import Outcome, Sum

        expected = Sum(self.planned.contents, self.planned.bytes) if self.planned else None
        return Outcome({"copied": Sum(self.contents, self.bytes)}, expected=expected)

    def plan(self, planned: "Planned") -> None:
        """Say what there is to do."""

    def advance(self, count: int) -> None:
        """Say how far it is, `count` bytes further."""

    def complain(self, text: str) -> None:
        click.secho(text, fg="red", err=True)


class _Bar(Account):
    """At a terminal: a bar of the bytes, with the time that is left."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress
        self._task: Any = None

    def plan(self, planned: "Planned") -> None:
        self._task = self._progress.add_task(f"{planned.contents} contents", total=planned.bytes)

    def advance(self, count: int) -> None:
        self._progress.update(self._task, advance=count)


class _Lines(Account):
    """In a log: a line now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._said = time.monotonic()

    def advance(self, count: int) -> None:  # noqa: ARG002  (all are counted already)
        if time.monotonic() - self._said > SAY_EVERY:
            self._said = time.monotonic()
            planned = self.planned.bytes if self.planned else 0
            click.echo(f"{self.contents} contents so far, {size(self.bytes)} of {size(planned)}", err=True)


@contextmanager
def told(as_: str) -> Iterator[Account]:
    """An account of what the block does, in the form that suits whoever reads it."""
    if as_ == "json" or not sys.stderr.isatty():
        yield Account() if as_ == "json" else _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress)


def size(amount: int) -> str:
    """For people."""
    return ByteSize(amount).human_readable()
