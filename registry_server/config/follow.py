"""Follows the configuration file while serving: `FOLLOWED` and `storage.maintenance.readonly` count at once.

Everything else does at a start, and the log says so. In a cluster the file is a mounted Secret, which the kubelet
replaces within a minute or two; each worker of each replica follows it for itself, so no request is lost to a restart.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from registry_server.config.loader import ConfigError, load
from registry_server.config.model import Config

logger = logging.getLogger(__name__)

FOLLOWED: Final = ("access", "quotas", "inuse", "backup", "retention", "scrub")
"""Blocks that need no start to take effect."""


class FollowedConfig:
    """The configuration in force, and what its file says by now."""

    def __init__(self, path: Path, environ: Mapping[str, str], config: Config) -> None:
        """`config` is what was read from the file, perhaps some time ago."""
        self._path = path
        self._environ = environ
        self._content: bytes | None = None
        self.current = config

    def reload_if_changed(self) -> bool:
        """Returns whether something changed that is followed: `current` has it then. A faulty file changes nothing."""
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
        before, self.current = self.current, _with_followed(self.current, config)
        if rest := _differing(self.current, config):
            logger.warning("%s: changes of %s take effect at the next start", self._path, ", ".join(rest))
        changed = _differing(before, self.current)
        if changed:
            logger.info("%s: changes of %s are in force", self._path, ", ".join(changed))
        return bool(changed)


def _with_followed(old: Config, new: Config) -> Config:
    maintenance = old.storage.maintenance.model_copy(update={"readonly": new.storage.maintenance.readonly})
    storage = old.storage.model_copy(update={"maintenance": maintenance})
    return old.model_copy(update={"storage": storage, **{name: getattr(new, name) for name in FOLLOWED}})


def _differing(one: Config, other: Config) -> list[str]:
    return [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]
