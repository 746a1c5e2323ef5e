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
    archive = make_docker_archive(tmp_path / "image.tar", [b"one", 1 << 20], name="team/app:1")
    dockerd.docker("load", "-i", str(archive))
    with Receiver().listening() as ours, serving(tmp_path / "ours", _notifying(ours), workers=2) as registry:
        _push_and_pull(dockerd, registry.address)
        events = _until_pulled(ours)
    with (
        Receiver().listening() as theirs,
        distribution_with(distribution, tmp_path / "theirs", _notifying(theirs)) as address,
    ):
        _push_and_pull(dockerd, address)
        expected = _until_pulled(theirs)
    assert events == expected
    assert [event[0] for event in events].count("push") == 4, "config, two layers and manifest"
    assert [event[0] for event in events].count("pull") >= 4


def _notifying(receiver: Receiver) -> dict[str, Any]:
    return {"notifications": {"endpoints": [{"name": "a", "url": receiver.url}]}}


def _push_and_pull(dockerd: Dockerd, address: str) -> None:
    image = f"{address}/team/app:1"
    dockerd.docker("tag", "team/app:1", image)
    dockerd.docker("push", image)
    dockerd.docker("rmi", image)
    dockerd.docker("rmi", "--force", "team/app:1")
    dockerd.docker("pull", image)
    dockerd.docker("tag", image, "team/app:1")
    dockerd.docker("rmi", image)
    httpx.head(f"http://{address}/v2/team/app/manifests/1", headers={"user-agent": LAST, "accept": DOCKER_MANIFEST})


def _until_pulled(receiver: Receiver) -> list[tuple[Any, ...]]:
    """All events of Docker's; layers go side by side, hence sorted."""
    until(lambda: any(event["request"]["useragent"] == LAST for event in receiver.events), "the last event arrives")
    return sorted(_comparable(event) for event in receiver.events if event["request"]["useragent"] != LAST)


def _comparable(event: Mapping[str, Any]) -> tuple[Any, ...]:
    target = event["target"]
    path = target["url"].partition("/v2/")[2]
    about = [str(target.get(key)) for key in ("mediaType", "digest", "size", "length", "repository", "tag")]
    return (event["action"], event["request"]["method"], event["request"]["useragent"], path, *about, *sorted(target))
