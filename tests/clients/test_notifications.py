"""What endpoints are told of a real client's push and pull: the same as by distribution."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.fixtures.docker import Dockerd
from tests.fixtures.images import make_docker_archive
from tests.server.content import DOCKER_MANIFEST
from tests.server.live import serving, until
from tests.server.peer import distribution_with
from tests.server.receiver import Receiver

LAST = "the last request"


def test_docker_makes_the_events_that_it_makes_with_distribution(
    dockerd: Dockerd, distribution: Path, tmp_path: Path
) -> None:
    """An image of the same shape to each, as the engine keeps what it has pulled once."""
    with Receiver().listening() as ours, serving(tmp_path / "ours", _notifying(ours), workers=2) as registry:
        _push_and_pull(dockerd, registry.address, tmp_path, b"ours")
        events = _told_of(ours)
    with (
        Receiver().listening() as theirs,
        distribution_with(distribution, tmp_path / "theirs", _notifying(theirs)) as address,
    ):
        _push_and_pull(dockerd, address, tmp_path, b"theirs")
        expected = _told_of(theirs)
    assert events == expected
    assert [event[0] for event in events].count("push") == 4, "config, two layers and manifest"
    assert [event[0] for event in events].count("pull") >= 4


def _notifying(receiver: Receiver) -> dict[str, Any]:
    return {"notifications": {"endpoints": [{"name": "a", "url": receiver.url}]}}


def _push_and_pull(dockerd: Dockerd, address: str, folder: Path, content: bytes) -> None:
    image = f"{address}/team/app:1"
    archive = make_docker_archive(folder / f"{content.decode()}.tar", [content, content * 1000], name=image)
    dockerd.docker("load", "-i", str(archive))
    dockerd.docker("push", image)
    dockerd.docker("rmi", image)
    dockerd.docker("pull", image)
    dockerd.docker("rmi", image)
    httpx.head(f"http://{address}/v2/team/app/manifests/1", headers={"user-agent": LAST, "accept": DOCKER_MANIFEST})


def _told_of(receiver: Receiver) -> list[tuple[Any, ...]]:
    """All events of Docker's; layers go side by side, hence sorted."""
    until(lambda: any(event["request"]["useragent"] == LAST for event in receiver.events), "the last event arrives")
    return sorted(_shape(event) for event in receiver.events if event["request"]["useragent"] != LAST)


def _shape(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """What does not depend on the image and on where the registry is."""
    target, request = event["target"], event["request"]
    start, _, path = target["url"].partition("/v2/")
    assert start == f"http://{request['host']}"
    assert target["size"] == target["length"] > 0
    resource, _, digest = path.rpartition("/")
    assert digest == target["digest"]
    about = (resource, target["repository"], target["mediaType"], target.get("tag", ""), *sorted(target))
    return (event["action"], request["method"], request["useragent"], *about, *sorted(event), *sorted(request))
