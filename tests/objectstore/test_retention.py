"""Retention where tags are objects, of which a store says when they were written."""

import asyncio

import pytest
from click.testing import CliRunner

from registry_server.cli import main
from registry_server.config import load
from registry_server.metadata.drivers import open_metadata
from registry_server.registry.manifest import understand
from registry_server.storage import open_storage
from tests.objectstore.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.test_retention import KEEP_ONE

pytestmark = pytest.mark.usefixtures("where_the_store_is")

A_TICK = 1.1
"""Seconds after which a store's clock shows another time."""


def test_a_tag_goes_if_it_is_still_as_it_was(serve: Serve) -> None:
    registry = serve()
    app = Repository(registry.client(), "app")
    made = {tag: app.push_image(tag) for tag in ("old", "moved", "again", "kept")}
    config = load(registry.config, registry.environ).config

    async def scenario() -> list[bool]:
        storage = open_storage(config.storage)
        metadata = open_metadata(config.metadata, storage, understand)
        found = await metadata.dated_tags("app")
        assert {tag: str(dated.digest) for tag, dated in found.items()} == {
            tag: digest_of(manifest) for tag, manifest in made.items()
        }
        await asyncio.sleep(A_TICK)
        made["moved"] = app.push_image("moved")
        app.push_manifest(made["again"], "again")
        return [await metadata.untag_old("app", tag, found[tag]) for tag in ("old", "moved", "again")]

    assert asyncio.run(scenario()) == [True, False, False]
    assert app.tags() == ["again", "kept", "moved"]
    for tag in app.tags():
        assert app.get_manifest(tag).content == made[tag]


def test_the_command_tells_of_a_bucket(serve: Serve) -> None:
    registry = serve(KEEP_ONE)
    app = Repository(registry.client(), "app")
    for tag in ("v1", "v2"):
        app.push_image(tag)
    environ = {name: str(value) for name, value in registry.environ.items()}
    result = CliRunner().invoke(main, ["retention", str(registry.config), "--all"], env=environ)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "app:v1 stays: pushed a moment ago",
        "app:v2 stays: one of the last 1",
        "1 repositories with 2 tags: 0 are gone",
    ]
