"""Two servers on one bucket: clients between them see no error and nothing old."""

from collections.abc import Iterator

import pytest

from tests.objectstore.conftest import Serve
from tests.objectstore.stores import Store
from tests.server.replicas import Replicas, replicas_of
from tests.server.test_replicas import burn, move_a_tag, push_in_pieces

pytestmark = pytest.mark.usefixtures("where_the_store_is")

GRACE = 8


@pytest.fixture
def replicas(serve: Serve, shared: Store, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    root = f"/replicas-{abs(hash(request.node.name))}"
    storage = shared.storage(root, redirect={"disable": True})
    settings = {"storage": storage, "garbagecollection": {"grace": f"{GRACE}s"}}
    with replicas_of(serve(settings, workers=2), serve(settings, workers=2)) as replicas:
        yield replicas


def test_nothing_old_is_seen(replicas: Replicas) -> None:
    move_a_tag(replicas, times=30)


def test_an_upload_goes_on_at_either(replicas: Replicas) -> None:
    push_in_pieces(replicas)


def test_under_fire_nothing_is_lost(replicas: Replicas) -> None:
    burnt = burn(replicas, grace=GRACE, cycles=300)
    assert burnt.faults == []
    assert burnt.pulls
