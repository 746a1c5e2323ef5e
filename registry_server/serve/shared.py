"""What a server's processes have in common."""

import socket
from dataclasses import dataclass
from pathlib import Path

from registry_server.config import Config


@dataclass(frozen=True, slots=True)
class Shared:
    """What the first process hands to every worker."""

    config: Config
    config_file: Path
    api: socket.socket
    debug: socket.socket | None
    metrics_directory: Path
    token_key: bytes
    instance: str
    spool: Path
    """The folder for content on its way from upstreams, if there are any."""

    def stop_listening(self) -> None:
        """Let go of the ports. Once all processes have, new clients are refused, and another server may start."""
        self.api.close()
        if self.debug is not None:
            self.debug.close()
