"""Events as distribution has them, and the messages they are sent in.

Sources: `notifications/event.go` and `bridge.go` of distribution v3.1.2; CloudEvents 1.0 with its JSON event format.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from registry_server.config import EventAction, EventFormat

Event = Mapping[str, Any]
Kind = Literal["manifest", "blob", "tag"]
"""What was pushed, pulled, mounted or deleted. distribution's events don't say it, CloudEvents do."""

MEDIA_TYPES: Final[dict[EventFormat, str]] = {
    "v2": "application/vnd.docker.distribution.events.v2+json",
    "v1": "application/vnd.docker.distribution.events.v1+json",
    "cloudevents": "application/cloudevents+json; charset=utf-8",
}
OCTETS: Final = "application/octet-stream"
"""The media type of every blob: the registry isn't told another."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which server an event comes from."""

    addr: str
    """Its host's name and its port."""
    instance: str
    """Another one after each start."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The request that an event comes from, and who sent it."""

    id: str
    addr: str
    host: str
    method: str
    agent: str
    user: str | None


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    """What an event says of content. distribution leaves none of the three out, even where there is nothing to say."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def event(kind: Kind, action: EventAction, target: Mapping[str, Any], cause: Cause, source: Source) -> bytes:
    """An event of now, as the journal keeps it: one line of JSON."""
    document = {
        "kind": kind,
        "id": str(uuid.uuid4()),
        "timestamp": _now(),
        "action": action,
        "target": target,
        "request": {
            "id": cause.id,
            "addr": cause.addr,
            "host": cause.host,
            "method": cause.method,
            "useragent": cause.agent,
        },
        "actor": {} if cause.user is None else {"name": cause.user},
        "source": {"addr": source.addr, "instanceID": source.instance},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def message(happened: Event, form: EventFormat) -> bytes:
    """The body that tells an endpoint of an event."""
    if form == "cloudevents":
        return json.dumps(_cloud_event(happened)).encode()
    return json.dumps({"events": [{key: value for key, value in happened.items() if key != "kind"}]}).encode()


def _cloud_event(happened: Event) -> dict[str, Any]:
    """Type and subject say what happened to what, so that a broker can route by them; the data is distribution's."""
    target = happened["target"]
    host = happened["request"]["host"] or happened["source"]["addr"]
    return {
        "specversion": "1.0",
        "id": happened["id"],
        "source": f"//{host}",
        "type": f"dev.regatta.{happened['kind']}.{happened['action']}",
        "subject": _subject(target),
        "time": happened["timestamp"],
        "datacontenttype": "application/json",
        "data": {key: happened[key] for key in ("action", "target", "request", "actor", "source")},
    }


def _subject(target: Mapping[str, Any]) -> str:
    repository, tag, digest = target["repository"], target.get("tag"), target["digest"]
    return f"{repository}:{tag}" if tag else f"{repository}@{digest}"


def references(content: bytes) -> Sequence[Mapping[str, Any]]:
    """The descriptors in a manifest that was accepted: config and layers, or what an index lists."""
    document = json.loads(content)
    if document.get("manifests") is not None:
        listed = document["manifests"]
    else:
        listed = [document["config"], *(document.get("layers") or ())]
    return [{key: one[key] for key in _DESCRIPTOR if key in one} for one in listed]


_DESCRIPTOR: Final = ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")


def _now() -> str:
    nanoseconds = time.time_ns()
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
