"""Overrides from the environment, as distribution has them: `REGISTRY_HTTP_ADDR=:5000` sets `http.addr`.

`REGISTRY_` and the keys in upper case, joined by `_`; a list's elements by their index; values are YAML, so a variable
may set a whole block. Less specific ones come first: `REGISTRY_STORAGE` before `REGISTRY_STORAGE_DELETE_ENABLED`.
"""

import re
from collections.abc import Iterator, Mapping

from registry_server.config.document import DocumentError, Value, dotted, read

_PREFIX = "REGISTRY_"
_CONFIGURATION_PATH = "REGISTRY_CONFIGURATION_PATH"
"""Where the configuration file is; the command reads it, as distribution's does."""

_FOREIGN = {
    "REGISTRY_AUTH_FILE": "other tools read their credentials from it",
    "REGISTRY_VERSION": "the version is the file's to say",
}
_SERVICE = re.compile(
    r"REGISTRY_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|REGISTRY_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_PORT = re.compile(r"REGISTRY_(\w+_)?PORT")


def overrides(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that set something, less specific ones first.

    What Kubernetes injects for Services named `registry` or `registry-…` sets nothing.
    """
    for name, value in sorted(environ.items()):
        if not name.startswith(_PREFIX) or name == _CONFIGURATION_PATH or _SERVICE.fullmatch(name):
            continue
        if _SERVICE_PORT.fullmatch(name) and re.match(r"(tcp|udp|sctp)://", value):
            continue
        yield name, value


def override(root: Value, name: str, text: str) -> list[str]:
    """Sets in `root` what the variable `name` overrides; returns warnings, raises DocumentError."""
    place = f"environment variable {name}"
    if name in _FOREIGN:
        return [f"{place}: is ignored: {_FOREIGN[name]}"]
    value, warnings = read(text, place, numbered=False)
    *way, last = name.removeprefix(_PREFIX).split("_")
    parent, keys = root, list[str | int]()
    for word in way:
        keys.append(_entry(parent, word, place, dotted(tuple(keys))))
        parent = parent.data[keys[-1]]
    key = _entry(parent, last, place, dotted(tuple(keys)))
    parent.data[key] = value
    return warnings


def _entry(parent: Value, word: str, place: str, name: str) -> str | int:
    """The key or index that `word` means in `parent`, which is called `name`; makes the entry when there is none."""
    if parent.data is None:
        parent.data = [] if word == "0" else {}
    if isinstance(parent.data, list):
        count = len(parent.data)
        if not (word.isascii() and word.isdecimal() and int(word) <= count):
            raise DocumentError(f"{place}: {name} is a list of {count}; number its elements from 0 to {count}")
        if int(word) == count:
            parent.data.append(Value(None, place))
        return int(word)
    if not isinstance(parent.data, dict):
        raise DocumentError(f"{place}: {name} is a single value; nothing can be set within it")
    key = next((key for key in parent.data if key.upper() == word), word.lower())
    parent.data.setdefault(key, Value(None, place))
    return key
