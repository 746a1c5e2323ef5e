"""Logs: JSON a line, or text for a terminal, and one line a request."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
FLUSH_AFTER: Final = 100
"""Lines that are held back at most, for fewer writes."""


def configure(*, level: str, formatter: str, fields: Mapping[str, Any]) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JSONFormatter(fields) if formatter == "json" else logging.Formatter(_TEXT, "%Y-%m-%dT%H:%M:%S")
    )
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("_granian").setLevel(max(LEVELS[level], logging.WARNING))


_TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"


class JSONFormatter(logging.Formatter):
    """A JSON object a line, with the configuration's `log.fields`."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **self._fields,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class AccessLog:
    """One line a request on standard output. Lines are gathered, since a write costs more than a small request."""

    def __init__(self, *, formatter: str, fields: Mapping[str, Any], stream: TextIO = sys.stdout) -> None:
        self._json = formatter == "json"
        self._fields = dict(fields)
        self._stream = stream
        self._lines: list[str] = []

    def write(self, entry: dict[str, Any]) -> None:
        """Note a request."""
        entry["time"] = _timestamp(time.time())
        self._lines.append(json.dumps({**entry, **self._fields}) if self._json else _as_text(entry))
        if len(self._lines) >= FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._lines:
            self._stream.write("\n".join(self._lines) + "\n")
            self._stream.flush()
            self._lines.clear()


def _as_text(entry: Mapping[str, Any]) -> str:
    return '{time} {remote} {user} "{method} {path}" {status} {bytes} {duration_ms}ms {id}'.format_map(entry)


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
