"""Read-only mode switched while serving, and what becomes of unfinished uploads."""

import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of, error_codes, unique
from tests.server.live import LiveRegistry, until


def change(registry: LiveRegistry, *, read_only: bool, **more: Any) -> None:
    """Replaces the configuration file in one step, as editors and the kubelet do."""
    settings = json.loads(registry.config.read_text()) | more
    settings["storage"].setdefault("maintenance", {})["readonly"] = {"enabled": read_only}
    new = registry.config.with_suffix(".new")
    new.write_text(json.dumps(settings))
    new.rename(registry.config)


def start_upload(registry: LiveRegistry) -> int:
    """The status on a new connection, and so of any worker."""
    return registry.fresh.post(f"{registry.url}/v2/app/blobs/uploads/").status_code


def await_all(registry: LiveRegistry, status: int) -> None:
    path = "/v2/app/blobs/uploads/"
    until(lambda: registry.statuses(path, "POST") == {status}, f"all workers answer {status}")


class TestReadOnly:
    def test_is_followed_both_ways_while_serving(self, serve: Serve) -> None:
        registry = serve(workers=2)
        repository = Repository(registry.client(), "app")
        manifest = repository.push_image("v1")
        location = repository.start_upload()
        repository.client.patch(location, content=b"before ")
        change(registry, read_only=True)
        await_all(registry, 405)
        refused = repository.client.patch(location, content=b"meanwhile")
        assert (refused.status_code, error_codes(refused)) == (405, ["UNSUPPORTED"])
        assert repository.client.delete("/v2/app/manifests/v1").status_code == 405
        assert repository.get_manifest("v1").content == manifest
        change(registry, read_only=False)
        await_all(registry, 202)
        repository.client.patch(location, content=b"after")
        digest = digest_of(b"before after")
        assert repository.client.put(location, params={"digest": digest}).status_code == 201
        assert "changes of storage are in force" in registry.messages()

    def test_reads_go_on_through_the_switch(self, serve: Serve) -> None:
        registry = serve(workers=2)
        Repository(registry.client(), "app").push_image("v1")
        done, statuses = threading.Event(), set[int]()

        def pull() -> None:
            while not done.is_set():
                statuses.add(registry.fresh.get(f"{registry.url}/v2/app/manifests/v1").status_code)

        thread = threading.Thread(target=pull)
        thread.start()
        try:
            for read_only, status in ((True, 405), (False, 202)):
                change(registry, read_only=read_only)
                await_all(registry, status)
        finally:
            done.set()
            thread.join()
        assert statuses == {200}

    def test_a_file_that_is_faulty_changes_nothing(self, serve: Serve) -> None:
        registry = serve()
        change(registry, read_only=True)
        await_all(registry, 405)
        good = registry.config.read_text()
        registry.config.write_text("version: 0.1\nstorage: {filesytem: {}}\n")
        until(lambda: "what is in force stays" in registry.messages(), "the fault is told")
        assert start_upload(registry) == 405
        registry.config.write_text(good)

    def test_other_changes_wait_for_a_start_and_are_told(self, serve: Serve) -> None:
        registry = serve()
        change(registry, read_only=True, catalog={"maxentries": 5})
        await_all(registry, 405)
        assert "changes of catalog take effect at the next start" in registry.messages()

    def test_a_worker_that_starts_later_has_it_as_well(self, serve: Serve) -> None:
        registry = serve()
        registry.crashes_expected = True
        change(registry, read_only=True)
        await_all(registry, 405)
        (old,) = registry.worker_pids()
        registry.kill_worker(old)
        until(lambda: registry.worker_pids() not in ([], [old]), "another worker is there")
        assert start_upload(registry) == 405

    def test_policies_are_followed_as_well(self, serve: Serve) -> None:
        registry = serve()
        change(registry, read_only=False, access={"policies": []})
        until(lambda: start_upload(registry) == 403, "nobody may push any more")


PURGING = {"enabled": True, "age": "10s", "interval": "50ms"}


class TestPurging:
    def test_waits_while_nothing_may_be_written(self, serve: Serve) -> None:
        maintenance = {"uploadpurging": {**PURGING, "enabled": False}}
        writer = serve({"storage": {"maintenance": maintenance}})
        Repository(writer.client(), "app").start_upload()
        writer.stop()
        maintenance = {"uploadpurging": {**PURGING, "age": "1ms"}, "readonly": {"enabled": True}}
        settings = json.loads(writer.config.read_text())
        settings["storage"]["maintenance"] = maintenance
        writer.config.write_text(json.dumps(settings))
        writer.start()
        uploads = writer.root / "repositories/app/_uploads"
        assert len(list(uploads.iterdir())) == 1
        change(writer, read_only=False)
        until(lambda: not list(uploads.iterdir()), "the upload is removed")

    def test_two_servers_on_one_directory_leave_alone_what_goes_on(self, serve: Serve, tmp_path: Path) -> None:
        """distribution goes by when an upload began, and takes a slow one away from under its client."""
        storage = {
            "filesystem": {"rootdirectory": str(tmp_path / "shared")},
            "maintenance": {"uploadpurging": PURGING},
        }
        servers = [serve({"storage": storage}, workers=2), serve({"storage": storage}, workers=2)]
        repositories = [Repository(one.client(), "app") for one in servers]
        location = repositories[0].start_upload()
        uploads = servers[0].root / "repositories/app/_uploads"
        stale: set[str] = set()
        content, number = b"", 0
        while number < 12 or stale & {path.name for path in uploads.iterdir()}:
            if number < 6:
                stale.add(repositories[number % 2].start_upload().rpartition("/")[2])
            piece = unique()
            response = repositories[number % 2].client.patch(location, content=piece)
            assert response.status_code == 202, response.text
            content, number = content + piece, number + 1
            time.sleep(0.5)  # a slow client
        response = repositories[1].client.put(location, params={"digest": digest_of(content)})
        assert response.status_code == 201
        assert repositories[0].get_blob(digest_of(content)).content == content
        for one in servers:
            assert "could not purge" not in one.messages()
