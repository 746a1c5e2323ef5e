"""A server's life: prepare, bind, start the workers, keep them running, end them.

    run ─► prepare ─► supervise ─► stop                  in the first process
             └► worker: serve ─► take leave ─► drain     one a core, sharing the sockets

Workers share nothing but storage, the listening sockets and the folder they publish their metrics in.
"""

import logging
import os
import socket
import tempfile
import uuid
from pathlib import Path

from registry_server import __version__, log
from registry_server.config import Address, Config, ConfigError
from registry_server.http.engine import bind
from registry_server.serve.preparation import check, content_spool, token_key
from registry_server.serve.shared import Shared
from registry_server.serve.supervisor import Supervisor

logger = logging.getLogger(__name__)


def run(config: Config, file: Path, *, workers: int) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ConfigError for what can't be served.

    `config` was read from `file`, which is followed from then on.
    """
    log.configure(config.log)
    check(config)
    with tempfile.TemporaryDirectory(prefix="regatta-metrics-") as directory:
        shared = Shared(
            config=config,
            config_file=file,
            api=_bind(config.http.addr, "http.addr"),
            debug=None if config.http.debug is None else _bind(config.http.debug.addr, "http.debug.addr"),
            metrics_directory=Path(directory),
            token_key=token_key(config),
            instance=str(uuid.uuid4()),
            spool=content_spool(config) or Path(directory) / "spool",
        )
        _announce(shared, workers)
        return Supervisor(shared, workers).run()


def _bind(address: Address, key: str) -> socket.socket:
    try:
        return bind(address.host, address.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(
            f"{key}: cannot listen on {address}: {reason}; choose another address or end what listens there"
        ) from error


def _announce(shared: Shared, workers: int) -> None:
    scheme = "http" if shared.config.http.tls is None else "https"
    host, port = shared.api.getsockname()[:2]
    logger.info("regatta %s listens on %s://[%s]:%d with %d worker(s)", __version__, scheme, host, port, workers)
