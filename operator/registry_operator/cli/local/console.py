"""What `local up` says: a line for each turn of events and, for a person at a terminal, what is being waited for."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.status import Status


class Voice:
    """Standard output: whole lines, and a moving one below them on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._told: dict[str, str] = {}

    def say(self, *lines: str, style: str | None = None) -> None:
        """Lines as they are."""
        for line in lines:
            self._console.print(line, markup=False, style=style)

    def warn(self, lines: Iterable[str]) -> None:
        """What a person has to put right."""
        self.say(*lines, style="red")

    def tell(self, name: str, message: str, *, style: str | None = None) -> None:
        """A line about a registry, unless it was the last one about it."""
        if self._told.get(name) != message:
            self._told[name] = message
            self.say(f"{name}: {message}", style=style)

    def wait_for(self, waiting: Mapping[str, str]) -> None:
        """Registries and what they wait for: a moving line, or whole lines as they change where no person looks."""
        if not self._console.is_terminal:
            for name, message in waiting.items():
                self.tell(name, message)
            return
        if self._status is None:
            self._status = self._console.status("")
        if not waiting:
            self._status.stop()
            return
        (name, message), *others = waiting.items()
        self._status.update(f"{name}: {message}" if not others else f"waiting for {', '.join(waiting)}")
        self._status.start()
