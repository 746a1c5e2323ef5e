"""Logs: JSON a line, or text for a terminal, and one line a request."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

from registry_server.config import Log

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
FLUSH_AFTER: Final = 100
"""Lines that are held back at most, for fewer writes."""


def configure(settings: Log) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    logging.basicConfig(level=LEVELS[settings.level], handlers=[handler], force=True)
    logging.getLogger("_granian").setLevel(max(LEVELS[settings.level], logging.WARNING))


def _formatter(settings: Log) -> logging.Formatter:
    if settings.formatter == "text":
        caller = " %(funcName)s %(filename)s:%(lineno)d" if settings.reportcaller else ""
        return logging.Formatter(f"%(asctime)s %(levelname)-7s{caller} %(message)s", "%Y-%m-%dT%H:%M:%S")
    return JSONFormatter(settings)


class JSONFormatter(logging.Formatter):
    """A JSON object a line, with the configuration's `log.fields`."""

    def __init__(self, settings: Log) -> None:
        super().__init__()
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if self._settings.reportcaller:
            entry |= {"func": record.funcName, "file": f"{record.pathname}:{record.lineno}"}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _as_json(entry, self._settings)


class AccessLog:
    """One line a request on standard output. Lines are gathered, since a write costs more than a small request."""

    def __init__(self, settings: Log, stream: TextIO = sys.stdout) -> None:
        self._settings = settings
        self._stream = stream
        self._lines: list[str] = []

    def write(self, entry: dict[str, Any]) -> None:
        """Note a request."""
        entry["time"] = _timestamp(time.time())
        text = self._settings.formatter == "text"
        self._lines.append(_as_text(entry) if text else _as_json(entry, self._settings))
        if len(self._lines) >= FLUSH_AFTER:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._lines:
            self._stream.write("\n".join(self._lines) + "\n")
            self._stream.flush()
            self._lines.clear()


def _as_json(entry: dict[str, Any], settings: Log) -> str:
    """The entry with the fields of the configuration, which win; `logstash` has other names for time and message."""
    if settings.formatter == "logstash":
        entry = {_LOGSTASH.get(name, name): value for name, value in entry.items()} | {"@version": "1"}
    return json.dumps({**entry, **settings.fields}, default=str)


_LOGSTASH: Final = {"time": "@timestamp", "msg": "message"}


def _as_text(entry: Mapping[str, Any]) -> str:
    return '{time} {remote} {user} "{method} {path}" {status} {bytes} {duration_ms}ms {id}'.format_map(entry)


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
