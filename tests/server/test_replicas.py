"""Two servers on one directory, with link files or one database: clients between them see no error and nothing old."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import fire
from tests.server.conftest import Serve, metadata_settings
from tests.server.content import Repository, digest_of, image
from tests.server.replicas import Replicas, replicas_of
from tests.server.test_garbage import garbage_collect
from tests.server.test_garbage_fire import GRACE, collecting


@pytest.fixture(params=["layout", "postgresql", "mariadb"])
def replicas(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Iterator[Replicas]:
    settings = {
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "shared")}},
        "garbagecollection": {"grace": f"{GRACE}s"},
        **metadata_settings(request.param, request, tmp_path),
    }
    with replicas_of(serve(settings, workers=2), serve(settings, workers=2)) as replicas:
        yield replicas


def move_a_tag(replicas: Replicas, *, times: int = 100) -> None:
    """What was pushed to one is at once seen by the other, by tag and in lists, and no more once it is deleted."""
    client = replicas.client()
    app = Repository(client, "app")
    app.push_blob(b"{}")
    for number in range(times):
        manifest = image(annotations={"number": str(number)})
        tag = f"v{number}"
        for reference in (tag, "latest"):
            app.push_manifest(manifest, reference)
        for _ in range(2):
            assert app.get_manifest("latest").content == manifest
            assert tag in app.tags()
        assert client.delete(f"{app.path}/manifests/{tag}").status_code == 202
        for _ in range(2):
            assert app.get_manifest(tag).status_code == 404
            assert tag not in app.tags()


def push_in_pieces(replicas: Replicas) -> None:
    """Each piece of a blob goes to whichever takes it."""
    client = replicas.client()
    app = Repository(client, "pieces")
    for number in range(20):
        content = f"piece {number} ".encode() * 1000
        location = app.start_upload()
        for start in range(0, len(content), 3000):
            answer = client.patch(location, content=content[start : start + 3000])
            assert answer.status_code == 202, answer.text
            location = answer.headers["location"]
        url = httpx.URL(location).copy_merge_params({"digest": digest_of(content)})
        assert client.put(url).status_code == 201
        assert app.get_blob(digest_of(content)).content == content


def burn(replicas: Replicas, *, grace: float, cycles: int) -> fire.Fire:
    """Clients push, mount, delete and pull by way of both, while a collector runs."""
    collector = collecting(replicas.registries[0], grace)
    return fire.rage(replicas.client, collector, cycles=cycles, patience=grace / 2)


def test_nothing_old_is_seen(replicas: Replicas) -> None:
    move_a_tag(replicas)


def test_an_upload_goes_on_at_either(replicas: Replicas) -> None:
    push_in_pieces(replicas)


@pytest.mark.endurance
def test_under_fire_nothing_is_lost(replicas: Replicas) -> None:
    burnt = burn(replicas, grace=GRACE, cycles=1500)
    assert burnt.faults == []
    assert burnt.pulls
    for registry in replicas.registries:
        registry.stop()
    assert garbage_collect(replicas.registries[0], "--delete-untagged").exit_code == 0
