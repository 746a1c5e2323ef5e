"""What distribution's configuration reference knows and Regatta does not implement yet.

Taken from `configuration/configuration.go` and the drivers of distribution v3.1.2, and from v2.8's for what v3 dropped.
The rule: a value that means "off", or what Regatta does anyway, is accepted; one that only tunes distribution's insides
is accepted with a warning; one whose absence would change what clients see, who gets in or where content lives is a
fault.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry_server.config.document import Keys, Value, dotted


def _never(_: Any) -> bool:
    return False


def _always(_: Any) -> bool:
    return True


def _empty(value: Any) -> bool:
    """Nothing is set: distribution's zero values, at every depth."""
    return all(map(_empty, value.values())) if isinstance(value, Mapping) else not value


def _disabled(value: Any) -> bool:
    """A list of nothing but entries with `disabled: true`."""
    return isinstance(value, list) and all(isinstance(one, dict) and one.get("disabled") is True for one in value)


def _no_endpoints(value: Any) -> bool:
    return _empty(value) or (isinstance(value, dict) and _disabled(value.get("endpoints", [])))


def _no_middleware(value: Any) -> bool:
    return _empty(value) or (isinstance(value, dict) and all(map(_disabled, value.values())))


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _default_page(value: Any) -> bool:
    return isinstance(value, int) and (value <= 0 or value == 1000)


@dataclass(frozen=True)
class _Setting:
    """A key of distribution's: the values that need no implementing, and what to do about the others."""

    advice: str = "remove it"
    harmless: Callable[[Any], bool] = _empty
    tunes: bool = False
    """Whether a harmless value still promises something that does not happen here, so that its author should know."""


_TUNING = _Setting(harmless=_always, tunes=True)
_DRIVER = _Setting("use storage.filesystem, s3, gcs or azure", _never)


_S3_TUNING = (
    "multipartcopychunksize",
    "multipartcopymaxconcurrency",
    "multipartcopythresholdsize",
    "multipartcombinesmallpart",
    "loglevel",
    "logs3apirequests",
    "logs3apiresponseheaders",
    "useragent",
)
_AZURE_TUNING = (
    "max_retries",
    "retry_delay",
    "copy_status_poll_max_retry",
    "copy_status_poll_delay",
)


@dataclass(frozen=True)
class _Block:
    """A block that is distribution's alone."""

    keys: Mapping[str, "_Setting | _Block"] = field(default_factory=dict)


_Known = Mapping[str, "_Setting | _Block | _Known"]

KNOWN: _Known = {
    "log": {
        "hooks": _Setting("remove it and alert on the log where it is collected", lambda v: _empty(v) or _disabled(v)),
        "reportcaller": _TUNING,
    },
    "storage": {
        **dict.fromkeys(("inmemory", "oss", "swift"), _DRIVER),
        "s3": dict.fromkeys(_S3_TUNING, _TUNING),
        "gcs": dict.fromkeys(("maxconcurrency", "useragent"), _TUNING),
        "azure": dict.fromkeys(_AZURE_TUNING, _TUNING),
        "cache": _Block(
            {
                "blobdescriptor": _Setting("use inmemory, or remove it", _one_of("inmemory", ""), tunes=True),
                "blobdescriptorsize": _TUNING,
                "layerinfo": _Setting("use inmemory, or remove it", _one_of("inmemory", ""), tunes=True),
            }
        ),
        "tag": _Block({"concurrencylimit": _TUNING}),
    },
    "auth": {
        "none": _Setting(harmless=_always),
        "silly": _Setting("use auth.htpasswd", _never),
    },
    "http": {
        "net": _Setting("use tcp, or remove it and listen on http.addr", _one_of("tcp", "")),
        "h2c": _Block({"enabled": _Setting("remove it and serve HTTP/2 over http.tls")}),
        "tls": {
            "ciphersuites": _Setting("remove it; http.tls.minimumtls chooses between the suites that are safe"),
            "letsencrypt": _Setting("use http.tls.certificate and http.tls.key"),
        },
    },
    "health": {kind: _Setting("remove it; health.storagedriver is what there is") for kind in ("file", "http", "tcp")},
    "middleware": _Setting(harmless=_no_middleware),
    "notifications": _Setting(harmless=_no_endpoints),
    "redis": _Setting(harmless=_empty),
    "proxy": _Setting(harmless=_empty),
    "catalog": _Block({"maxentries": _Setting("remove it; the limit is 1000", _default_page)}),
    "tags": _Block({"maxtags": _Setting("remove it; the limit is 1000", _default_page)}),
    "validation": _Block(
        {
            "enabled": _Setting(harmless=_one_of(True, False)),
            "disabled": _Setting(harmless=_one_of(True, False)),
            "manifests": _Block(
                {
                    "urls": _Setting("remove it"),
                    "indexes": _Block(
                        {
                            "platforms": _Setting("use all, or remove it", _one_of("all", "")),
                            "platformlist": _Setting(),
                        }
                    ),
                }
            ),
        }
    ),
    "policy": _Block({"repository": _Block({"classes": _Setting()})}),
    "compatibility": _Setting("remove it; manifests of schema 1 are no longer pulled by any client"),
    "reporting": _Setting("remove it; distribution 3 dropped it as well"),
}


@dataclass
class Judgement:
    """What became of the settings that only distribution knows."""

    faults: list[tuple[Keys, Value, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unknown: list[tuple[Keys, Value, tuple[str, ...]]] = field(default_factory=list)
    """Keys that distribution does not know either, within its blocks; with those it does."""


def judge(root: Value) -> Judgement:
    """Takes out of `root` every setting that is distribution's and not Regatta's, and says what that means."""
    judgement = Judgement()
    _judge(root, KNOWN, (), judgement)
    return judgement


def _judge(block: Value, known: _Known, keys: Keys, judgement: Judgement) -> None:
    if not isinstance(block.data, dict):
        return
    for name, what in known.items():
        value, inside = block.data.get(name), (*keys, name)
        if value is None:
            continue
        if isinstance(what, Mapping):
            _judge(value, what, inside, judgement)
            continue
        del block.data[name]
        if what is _DRIVER or (isinstance(what, _Setting) and value.data is not None):
            _judge_setting(value, what, inside, judgement)
        elif isinstance(what, _Setting):
            continue
        elif isinstance(value.data, dict):
            _judge(value, what.keys, inside, judgement)
            judgement.unknown += [((*inside, key), left, tuple(what.keys)) for key, left in value.data.items()]
        elif value.data is not None:
            judgement.faults.append((inside, value, "must be a map of settings"))


def _judge_setting(value: Value, setting: _Setting, keys: Keys, judgement: Judgement) -> None:
    if not setting.harmless(value.plain()):
        text = f"is a setting of distribution's that Regatta does not implement yet; {setting.advice}"
        judgement.faults.append((keys, value, text))
    elif setting.tunes:
        text = "has no effect: it tunes something inside distribution that Regatta does without"
        judgement.warnings.append(f"{value.place}: {dotted(keys)}: {text}")


def names(keys: Keys) -> tuple[str, ...]:
    """The settings distribution knows at `keys` beside Regatta's, for suggestions."""
    known: Any = KNOWN
    for key in keys:
        known = known.get(key, {}) if isinstance(known, Mapping) else {}
    return tuple(known) if isinstance(known, Mapping) else ()
