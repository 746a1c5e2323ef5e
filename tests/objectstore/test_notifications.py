"""Events of a registry whose content is in an object store: where they wait, and pulls that are redirected."""

from pathlib import Path

from tests.objectstore.conftest import Serve
from tests.objectstore.stores import Store
from tests.server.content import Repository, digest_of
from tests.server.live import serving
from tests.server.receiver import Receiver


def test_a_redirected_pull_is_told_with_its_size(signing: Store, tmp_path: Path) -> None:
    with Receiver().listening() as receiver:
        spool = {"directory": str(tmp_path / "spool")}
        notifications = {"endpoints": [{"name": "a", "url": receiver.url}], "spool": spool}
        settings = {"storage": signing.storage(f"/{tmp_path.name}"), "notifications": notifications}
        with serving(tmp_path / "registry", settings, environ=signing.environ) as registry:
            repository = Repository(registry.client(), "team/app")
            layer = b"layer" * 1000
            repository.push_image("v1", layers=[layer])
            assert repository.get_blob(digest_of(layer)).status_code == 307
            *pushed, pulled = receiver.await_events(4)
        assert [event["target"]["size"] for event in pushed[:2]] == [2, 5000]
        assert (pulled["action"], pulled["target"]["size"]) == ("pull", 5000)
        assert pulled["target"]["digest"] == digest_of(layer)


def test_the_folder_must_be_named(serve: Serve) -> None:
    registry = serve({"notifications": {"endpoints": [{"name": "a", "url": "http://x"}]}}, start=False)
    registry.start(ready=False)
    assert registry.process.wait() == 2
    assert "notifications.spool.directory is missing" in registry.log.read_text()
