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


def _no_middleware(value: Any) -> bool:
    return _empty(value) or (isinstance(value, dict) and all(map(_disabled, value.values())))


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


@dataclass(frozen=True)
class _Setting:
    """A key of distribution's: the values that need no implementing, and what to do about the others."""

    advice: str = "remove it"
    harmless: Callable[[Any], bool] = _empty
    tunes: bool = False
    """Whether a harmless value still promises something that does not happen here, so that its author should know."""
    reason: str = ""
    """Why it is not implemented, where it never will be."""
    note: str = ""
    """What is so anyway, where any value is harmless."""


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
        "hooks": _Setting(
            "remove it and alert on the log or the metrics where they are collected",
            lambda value: _empty(value) or _disabled(value),
            reason="the server sends no mail",
        ),
    },
    "storage": {
        **dict.fromkeys(("inmemory", "oss", "swift"), _DRIVER),
        "s3": dict.fromkeys(_S3_TUNING, _TUNING),
        "gcs": dict.fromkeys(("maxconcurrency", "useragent"), _TUNING),
        "azure": dict.fromkeys(_AZURE_TUNING, _TUNING),
        "cache": _Block(
            {
                "blobdescriptor": _Setting("remove it", _one_of("inmemory", "redis", ""), tunes=True),
                "blobdescriptorsize": _TUNING,
                "layerinfo": _Setting("remove it", _one_of("inmemory", "redis", ""), tunes=True),
            }
        ),
        "tag": _Block({"concurrencylimit": _TUNING}),
    },
    "auth": {
        "none": _Setting(harmless=_always, note="no logins, as without `auth`"),
        "silly": _Setting("use auth.htpasswd", _never, reason="it lets everyone in"),
    },
    "http": {
        "net": _Setting("use tcp, or remove it", _one_of("tcp", ""), reason="it listens on TCP alone"),
        "tls": {
            "ciphersuites": _Setting(
                "remove it; http.tls.minimumtls chooses between the versions",
                reason="the engine offers safe suites only",
            ),
            "letsencrypt": _Setting(
                "let another program renew http.tls.certificate and http.tls.key, which are followed",
                reason="the server obtains no certificates",
            ),
        },
    },
    "middleware": _Setting(harmless=_no_middleware, reason="it is code of distribution's"),
    "redis": _Setting(harmless=_always, tunes=True),
    "proxy": {"cachewritetimeout": _TUNING},
    "policy": _Block(
        {
            "repository": _Block(
                {"classes": _Setting("remove it and use access", reason="it is for token servers of Docker's")}
            )
        }
    ),
    "compatibility": _Setting(reason="no client pulls manifests of schema 1 any more"),
    "reporting": _Setting(reason="distribution 3 dropped it as well"),
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
    _move_loglevel(root, judgement)
    _judge(root, KNOWN, (), judgement)
    return judgement


def _move_loglevel(root: Value, judgement: Judgement) -> None:
    """`loglevel` is what `log.level` was called once; the new name counts where both are."""
    level = root.data.pop("loglevel", None) if isinstance(root.data, dict) else None
    if level is None or level.data is None:
        return
    judgement.warnings.append(f"{level.place}: loglevel: is an old name; write log.level instead")
    log = root.data.get("log")
    if log is None or log.data is None:
        log = root.data["log"] = Value({}, level.place)
    if isinstance(log.data, dict):
        log.data.setdefault("level", level)


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
        why = f": {setting.reason}" if setting.reason else " yet"
        text = f"is a setting of distribution's that Regatta does not implement{why}; {setting.advice}"
        judgement.faults.append((keys, value, text))
    elif setting.tunes:
        text = "has no effect: it tunes something inside distribution that Regatta does without"
        judgement.warnings.append(f"{value.place}: {dotted(keys)}: {text}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a setting, or of the block around it."""

    keys: tuple[str, ...]
    refused: bool
    text: str


def verdict(keys: tuple[str, ...], example: Any) -> Verdict | None:
    """What becomes of a setting with a value such as `example`; None when that is for the types to say."""
    known: Any = KNOWN
    for depth, key in enumerate(keys, start=1):
        known = known.keys if isinstance(known, _Block) else known
        known = known.get(key) if isinstance(known, Mapping) else None
        if isinstance(known, _Setting):
            return _verdict(keys[:depth], known, nested(keys[depth:], example))
    return None


def _verdict(keys: tuple[str, ...], setting: _Setting, value: Any) -> Verdict:
    if not setting.harmless(value):
        why = f"{setting.reason}; " if setting.reason else ""
        return Verdict(keys, refused=True, text=f"{why}{setting.advice}")
    text = "it tunes the inside of distribution, says a warning" if setting.tunes else setting.note
    return Verdict(keys, refused=False, text=text)


def nested(keys: tuple[str, ...], value: Any) -> Any:
    """A value within the blocks that lead to it; `[]` stands for a list."""
    for key in reversed(keys):
        value = [value] if key == "[]" else {key: value}
    return value


def names(keys: Keys) -> tuple[str, ...]:
    """The settings distribution knows at `keys` beside Regatta's, for suggestions."""
    known: Any = KNOWN
    for key in keys:
        known = known.get(key, {}) if isinstance(known, Mapping) else {}
    return tuple(known) if isinstance(known, Mapping) else ()
