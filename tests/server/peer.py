"""distribution itself, for what we must do as it does."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fixtures.processes import free_port, server


@contextmanager
def distribution_with(program: Path, folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """Runs it in a folder of its own as long as the block, with further settings; gives its host and port."""
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}}
    config = folder / "config.yml"
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}, **settings}))
    with server("env", "OTEL_TRACES_EXPORTER=none", program, "serve", config, log=folder / "log") as running:
        running.await_port("127.0.0.1", int(address.rpartition(":")[2]))
        yield address
