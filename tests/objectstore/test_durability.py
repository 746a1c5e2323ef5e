"""Acknowledged is committed: `kill -9` of a registry loses nothing in the bucket that got its 201."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

from tests.objectstore.conftest import Serve
from tests.server.content import Repository
from tests.server.live import until
from tests.server.test_durability import (
    SEED,
    Pusher,
    _check,
    test_a_kill_in_the_middle_of_a_push_blocks_no_later_one,  # noqa: F401
)

ROUNDS, PUSHERS = 5, 3


def test_kill_9_loses_nothing_acknowledged_and_shows_nothing_half_written(serve: Serve) -> None:
    registry = serve(workers=2)
    pushers = [Pusher(registry, f"team-{number}/app") for number in range(PUSHERS)]
    moments = random.Random(SEED)  # noqa: S311, wanted: the same each time
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(PUSHERS) as pool:
            before = _pushed(pushers)
            running = [pool.submit(pusher.run) for pusher in pushers]
            until(lambda: _pushed(pushers) > before, "something is acknowledged", within=120)  # noqa: B023
            time.sleep(moments.uniform(0.0, 0.5))  # a moment like any other, which is the point
            registry.kill()
            for one in running:
                one.result()
        registry.start()
    for pusher in pushers:
        _check(Repository(registry.client(), pusher.name), pusher.ledger, since=set())


def _pushed(pushers: list[Pusher]) -> int:
    """The manifests that were acknowledged."""
    return sum(len(pusher.ledger.manifests) for pusher in pushers)
