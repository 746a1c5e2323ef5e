"""What `local up` says: a line for each turn of events and, for a person at a terminal, what is being waited for."""

from collections.abc import Iterable

from rich.console import Console
from rich.status import Status


class Voice:
    """Standard output: whole lines, and a moving one below them on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._waiting: Status | None = None
        self._last = ""

    def say(self, *lines: str, style: str | None = None) -> None:
        """Lines as they are."""
        for line in lines:
            self._console.print(line, markup=False, style=style)

    def warn(self, lines: Iterable[str]) -> None:
        """What a person has to put right."""
        self.say(*lines, style="red")

    def wait_for(self, what: str) -> None:
        """Show what is waited for; nothing if it is empty. Where no person looks, it is a line whenever it changes."""
        if what == self._last:
            return
        self._last = what
        if not self._console.is_terminal:
            if what:
                self.say(what)
            return
        if self._waiting is None:
            self._waiting = self._console.status("")
        self._waiting.update(what)
        if what:
            self._waiting.start()
        else:
            self._waiting.stop()
