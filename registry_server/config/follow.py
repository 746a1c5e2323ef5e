"""Follows the configuration file while serving: its block `access` takes effect at once, everything else at a start."""

import logging
from collections.abc import Mapping
from pathlib import Path

from registry_server.config.loader import ConfigError, load
from registry_server.config.model import Config

logger = logging.getLogger(__name__)


class FollowedConfig:
    """The configuration in force, and what its file says by now."""

    def __init__(self, path: Path, environ: Mapping[str, str], config: Config) -> None:
        """`config` is what was read from the file, perhaps some time ago."""
        self._path = path
        self._environ = environ
        self._content: bytes | None = None
        self.current = config

    def reload_if_changed(self) -> bool:
        """Returns whether `access` changed; `current` has it then. What cannot be used changes nothing."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return False  # it is being replaced, or was removed by someone who will notice
        if content == self._content:
            return False
        self._content = content
        try:
            config = load(self._path, self._environ).config
        except ConfigError as error:
            logger.error("%s; what is in force stays", "; ".join(error.faults))  # noqa: TRY400
            return False
        if changed := [name for name in type(config).model_fields if _differs(self.current, config, name)]:
            logger.warning("%s: changes of %s take effect at the next start", self._path, ", ".join(changed))
        if config.access == self.current.access:
            return False
        self.current = self.current.model_copy(update={"access": config.access})
        logger.info("%s: changes of access are in force", self._path)
        return True


def _differs(one: Config, other: Config, name: str) -> bool:
    return name != "access" and getattr(one, name) != getattr(other, name)
