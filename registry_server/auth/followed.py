"""What is read from files and read again when one of them changes, as Kubernetes changes those of a Secret."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from registry_server.auth.htpasswd import Stamp
from registry_server.config import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Followed(Generic[T]):
    """The value of some files: `current` is that of their last state that made sense."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Raises ConfigError, as `read` does for what cannot be used."""
        self._paths = paths
        self._read = read
        self._stamps = self._look()
        self.current = read()

    def reload_if_changed(self) -> bool:
        """Returns whether there is a new value. Files that cannot be used change nothing and are logged once."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self.current = self._read()
        except ConfigError as error:
            logger.error("%s; what was read before stays in force", "; ".join(error.faults))  # noqa: TRY400
            return False
        logger.info("%s changed and was read again", " or ".join(map(str, self._paths)))
        return True

    def _look(self) -> tuple[Stamp | str, ...]:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> Stamp | str:
    try:
        return Stamp.of(path.stat())
    except OSError as error:
        return str(error)
