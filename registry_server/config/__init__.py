"""The server's configuration: `load` reads a file and the environment into a `Config`, `dump` writes one.

The operator builds a `Config` and dumps it; the server loads it. Every fault of a file is one line that says where
it is and what to do.
"""

from registry_server.config.loader import ConfigError, Loaded, dump, load
from registry_server.config.model import (
    HTTP,
    HTTP2,
    TLS,
    Access,
    AccessLog,
    Action,
    Auth,
    Config,
    Debug,
    Delete,
    Filesystem,
    Health,
    Htpasswd,
    Log,
    Maintenance,
    Manifests,
    Policy,
    Prometheus,
    ReadOnly,
    Role,
    Storage,
    StorageCheck,
    UploadPurging,
)
from registry_server.config.scalars import Address, format_duration, parse_duration

__all__ = [
    "HTTP",
    "HTTP2",
    "TLS",
    "Access",
    "AccessLog",
    "Action",
    "Address",
    "Auth",
    "Config",
    "ConfigError",
    "Debug",
    "Delete",
    "Filesystem",
    "Health",
    "Htpasswd",
    "Loaded",
    "Log",
    "Maintenance",
    "Manifests",
    "Policy",
    "Prometheus",
    "ReadOnly",
    "Role",
    "Storage",
    "StorageCheck",
    "UploadPurging",
    "dump",
    "format_duration",
    "load",
    "parse_duration",
]
