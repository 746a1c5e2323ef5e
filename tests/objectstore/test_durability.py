"""Acknowledged is committed: `kill -9` of a registry loses nothing in the bucket that got its 201."""

from tests.objectstore.conftest import Serve
from tests.server.test_durability import (
    kill_at_random,
    test_a_kill_in_the_middle_of_a_push_blocks_no_later_one,  # noqa: F401
)


def test_kill_9_loses_nothing_acknowledged_and_shows_nothing_half_written(serve: Serve) -> None:
    kill_at_random(serve(workers=2), rounds=5, pushers=3)
