"""Quotas and usage where content and link files are objects."""

import os

from tests.objectstore.conftest import Serve
from tests.server.content import Repository, digest_of
from tests.server.test_quotas import KIB, QUOTAS, assert_denied, push, start, usage


def test_they_hold_as_on_a_file_system(serve: Serve) -> None:
    registry = serve({"quotas": QUOTAS}, workers=2)
    client = registry.client()
    small = Repository(client, "small/app")
    small.push_image("latest", layers=[os.urandom(60 * KIB)])
    assert 60 * KIB < usage(small)["bytes"] < 61 * KIB
    assert_denied(push(small, os.urandom(5 * KIB)))
    content = os.urandom(60 * KIB)
    one, other = (Repository(client, f"fleet/{name}") for name in ("one", "other"))
    assert push(one, content).status_code == 201
    mounted = start(other, mount=digest_of(content), **{"from": one.name})
    assert_denied(mounted)
    assert [entry["name"] for entry in client.get("/v2/_regatta/usage").json()["repositories"]] == [small.name]
