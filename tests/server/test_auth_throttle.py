"""Failed logins by address: tries that come back with time, in memory that does not grow."""

from ipaddress import IPv4Address

import pytest

from registry_server.auth.throttle import REMEMBERED, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(throttle: Throttle, times: int, address: str = "192.0.2.1") -> None:
    for _ in range(times):
        throttle.failed(address)


def test_an_address_has_so_many_tries_and_then_one_after_another(clock: Clock) -> None:
    throttle = Throttle(tries=3, every=10, clock=clock)
    fail(throttle, 2)
    assert throttle.wait("192.0.2.1") == 0
    fail(throttle, 1)
    assert throttle.wait("192.0.2.1") == 10
    clock.now += 9.5
    assert throttle.wait("192.0.2.1") == 1
    clock.now += 0.5
    assert throttle.wait("192.0.2.1") == 0
    fail(throttle, 1)
    assert throttle.wait("192.0.2.1") == 10


def test_all_tries_are_back_after_a_while_and_no_more_than_all(clock: Clock) -> None:
    throttle = Throttle(tries=3, every=10, clock=clock)
    fail(throttle, 3)
    clock.now += 10_000
    fail(throttle, 2)
    assert throttle.wait("192.0.2.1") == 0
    fail(throttle, 1)
    assert throttle.wait("192.0.2.1") == 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    throttle = Throttle(tries=1)
    throttle.failed(one)
    assert (throttle.wait(other) > 0) is same


def test_many_addresses_take_no_more_memory_and_the_latest_are_remembered() -> None:
    throttle = Throttle(tries=1)
    for number in range(REMEMBERED + 1000):
        throttle.failed(str(IPv4Address(number)))
    assert len(throttle) == REMEMBERED
    assert throttle.wait(str(IPv4Address(REMEMBERED + 999))) > 0


def test_whatever_is_no_address_counts_as_one() -> None:
    throttle = Throttle(tries=1)
    throttle.failed("")
    assert throttle.wait("unix") > 0
