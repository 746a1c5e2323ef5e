"""`registry-server metadata`: from link files to a database and back, with distribution at either end."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry_server.cli import main
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import OCI_INDEX, OCI_MANIFEST, Repository, descriptor, digest_of, image, index
from tests.server.live import LiveRegistry, until
from tests.server.test_layout import _assert_served, _files, _peer, _push_to

DATABASES = [driver for driver in METADATA if driver != "layout"]


@pytest.fixture
def registry(serve: Serve, tmp_path: Path) -> LiveRegistry:
    """A registry on SQLite that is not started, over storage that is empty."""
    return serve({"metadata": {"sql": {"url": f"sqlite:///{tmp_path}/metadata.db"}}}, start=False)


def run(verb: str, registry: LiveRegistry, *options: str) -> Result:
    result = CliRunner().invoke(main, ["metadata", verb, str(registry.config), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def on_link_files(serve: Serve, registry: LiveRegistry) -> LiveRegistry:
    """Another registry on the same storage, on its link files."""
    return serve({"storage": {"filesystem": {"rootdirectory": str(registry.data)}}})


@pytest.mark.parametrize("driver", DATABASES)
def test_what_distribution_wrote_is_served_from_a_database_and_by_distribution_again(
    driver: str, request: pytest.FixtureRequest, serve: Serve, distribution: Path, tmp_path: Path
) -> None:
    registry = serve(metadata_settings(driver, request, tmp_path), start=False)
    with _peer(distribution, registry.data, tmp_path) as peer:
        manifests = _push_to(Repository(peer, "team/app"))
    assert "1 repositories: 3 blobs, 3 manifests, 3 tags" in run("import", registry).stderr
    assert run("check", registry).exit_code == 0
    for link in registry.root.glob("repositories/**/link"):
        link.unlink()  # the database is the truth
    _assert_served(registry.start().client(), manifests)
    added = Repository(registry.client(), "team/app").push_image("added")
    registry.client().delete("/v2/team/app/manifests/docker")
    registry.stop()
    for folder in sorted(registry.root.glob("repositories/**/"), reverse=True):
        if folder != registry.root / "repositories":
            folder.rmdir()
    assert run("export", registry).exit_code == 0
    with _peer(distribution, registry.data, tmp_path) as peer:
        theirs = Repository(peer, "team/app")
        assert theirs.tags() == ["added", "index", "latest"]
        for reference, manifest in ({"added": added} | manifests).items():
            if reference != "docker":
                assert theirs.get_manifest(reference).content == manifest


def test_a_server_on_a_new_database_says_that_the_content_was_not_taken_over(
    serve: Serve, registry: LiveRegistry
) -> None:
    registry.start().stop()
    assert "metadata import" not in registry.messages()
    Repository(on_link_files(serve, registry).client(), "app").push_image("latest")
    registry.start()
    until(lambda: f"registry-server metadata import {registry.config}" in registry.messages(), "it says so")
    registry.stop()
    run("import", registry)
    registry.start().stop()
    assert "metadata import" not in registry.messages()


def test_what_was_taken_over_before_is_not_done_again(serve: Serve, registry: LiveRegistry) -> None:
    source = on_link_files(serve, registry)
    for name in ("a", "b"):
        Repository(source.client(), name).push_image("v1")
    first = [json.loads(line) for line in run("import", registry, "--format", "json").stdout.splitlines()]
    nothing = {"removed": 0, "problems": []}
    assert first == [{"repository": name, "blobs": 2, "manifests": 1, "tags": 1, **nothing} for name in ("a", "b")]
    Repository(source.client(), "b").push_image("v2", layers=[])
    again = [json.loads(line) for line in run("import", registry, "--format", "json").stdout.splitlines()]
    assert again[0] == {"repository": "a", "blobs": 0, "manifests": 0, "tags": 0, **nothing}
    assert again[1] == {"repository": "b", "blobs": 0, "manifests": 1, "tags": 1, **nothing}


def test_differences_are_named_and_pruning_ends_them(serve: Serve, registry: LiveRegistry) -> None:
    source = on_link_files(serve, registry)
    repository = Repository(source.client(), "app")
    first, second = repository.push_image("moves", layers=[b"1"]), repository.push_image("goes", layers=[b"2"])
    run("import", registry)
    third = repository.push_image("moves", layers=[b"3"])
    repository.client.delete(f"/v2/app/manifests/{digest_of(second)}")
    repository.client.delete(f"/v2/app/blobs/{digest_of(b'2')}")
    result = run("check", registry)
    assert result.exit_code == 1
    assert set(result.stdout.splitlines()) == {
        f"app: blob {digest_of(b'2')}: the link files say nothing, the database {digest_of(b'2')}",
        f"app: blob {digest_of(b'3')}: the link files say {digest_of(b'3')}, the database nothing",
        f"app: manifest {digest_of(second)}: the link files say nothing, the database {digest_of(second)}",
        f"app: manifest {digest_of(third)}: the link files say {digest_of(third)}, the database nothing",
        f"app: tag goes: the link files say nothing, the database {digest_of(second)}",
        f"app: tag moves: the link files say {digest_of(third)}, the database {digest_of(first)}",
    }
    run("import", registry)
    left = [line.split(":")[1].strip() for line in run("check", registry).stdout.splitlines()]
    assert left == ["blob sha256", "manifest sha256", "tag goes"]
    assert run("import", registry, "--prune").exit_code == 0
    assert run("check", registry).exit_code == 0


def test_what_has_no_content_is_named_and_left_out(serve: Serve, registry: LiveRegistry) -> None:
    source = on_link_files(serve, registry)
    repository = Repository(source.client(), "app")
    kept, lost = repository.push_image("kept", layers=[b"1"]), repository.push_image("lost", layers=[b"2"])
    for digest in (digest_of(lost), digest_of(b"2")):
        (registry.root / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data").unlink()
    result = run("import", registry)
    assert result.exit_code == 1
    assert sorted(result.stdout.splitlines()) == [
        f"app: blob {digest_of(b'2')}: its content is not in storage",
        f"app: manifest {digest_of(lost)}: its content is not in storage",
    ]
    served = Repository(registry.start().client(), "app")
    assert served.tags() == ["kept"]
    assert served.get_manifest("kept").content == kept


def test_everything_there_is_comes_back(serve: Serve, registry: LiveRegistry) -> None:
    """sha512 names, indexes before what they list, subjects, blobs without a manifest: link for link."""
    source = on_link_files(serve, registry)
    repository = Repository(source.client(), "deep/down/app")
    repository.push_blob(b"content", "sha512")
    child = image(annotations={"is": "child"})
    repository.push_manifest(index([child]), "index", OCI_INDEX)
    repository.push_blob(b"{}")
    repository.push_manifest(child)
    by_sha512 = index(annotations={"by": "sha512"})
    repository.push_manifest(by_sha512, digest_of(by_sha512, "sha512"), OCI_INDEX)
    signature = image(subject=descriptor(child, OCI_MANIFEST), artifactType="application/x", annotations={"a": "\0ä"})
    repository.push_manifest(signature)
    repository.sibling("blobs-only").push_blob(b"content")
    before = {path: content for path, content in _files(source).items() if "/index/" not in path}
    referrers = repository.referrers(digest_of(child))
    source.stop()
    assert run("import", registry).exit_code == 0
    served = Repository(registry.start().client(), repository.name)
    assert served.referrers(digest_of(child)) == referrers
    assert served.get_blob(digest_of(b"content", "sha512")).content == b"content"
    registry.stop()
    for link in registry.root.glob("repositories/**/link"):
        link.unlink()
    assert run("export", registry).exit_code == 0
    after: dict[str, Any] = {path: content for path, content in _files(registry).items() if "/index/" not in path}
    assert after == before


def test_without_a_database_it_says_what_is_missing(serve: Serve) -> None:
    registry = serve(start=False)
    for verb in ("import", "export", "check", "migrate"):
        result = run(verb, registry)
        assert result.exit_code == 2
        assert "metadata.sql: is missing" in result.stderr


def test_the_schema_can_be_migrated_by_hand(serve: Serve, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/metadata.db"
    registry = serve({"metadata": {"sql": {"url": url, "migrate": "manual"}}}, start=False)
    assert "registry-server metadata migrate" in run("import", registry).stderr
    assert run("migrate", registry).exit_code == 0
    assert Repository(registry.start().client(), "app").tags() == []
