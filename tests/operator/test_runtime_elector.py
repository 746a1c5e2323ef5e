"""Leader election on a real API server: one leader at a time, whatever clocks say, and a quick change of leaders."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry_operator.cluster.kubernetes.api import Api, CredentialsError
from registry_operator.runtime.elector import LEASE, Candidacy, Elector, LeadershipLost, Timing
from tests.operator.kube import Kube, Wire

FAST = Timing(lease=2.0, deadline=1.5, retry=0.1)
LONG = Timing(lease=3600.0, deadline=60.0, retry=0.1)
"""A lease that no test waits for to expire."""


@asynccontextmanager
async def connected(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    api = await Api.connect(user_agent="test")
    try:
        yield api
    finally:
        await api.close()


Electors = Callable[..., Elector]


@pytest.fixture
def electing(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Electors], Awaitable[None]]], None]:
    """Runs a scenario that makes electors by name, all for the same Lease."""

    def run(scenario: Callable[[Electors], Awaitable[None]]) -> None:
        async def main() -> None:
            async with connected(kube.api.kubeconfig, monkeypatch) as api:
                await scenario(
                    lambda name, timing=FAST, **rest: Elector(
                        api, namespace=namespace, name="lease", identity=name, timing=timing, **rest
                    )
                )

        asyncio.run(main())

    return run


async def soon(awaitable: Awaitable[Any]) -> None:
    async with asyncio.timeout(30):
        await awaitable


async def decided(acquiring: asyncio.Task[None], standing_by: asyncio.Event) -> None:
    """Returns once the candidate leads or knows who does."""
    waiting = asyncio.create_task(standing_by.wait())
    await asyncio.wait({acquiring, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@asynccontextmanager
async def holding(elector: Elector) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(elector.hold())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LeadershipLost):
            await task


def test_the_second_waits_while_the_first_holds(electing, kube, namespace) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        first, second = elector("first"), elector("second")
        await soon(first.acquire())
        async with holding(first) as hold:
            waiting = asyncio.create_task(second.acquire())
            await asyncio.sleep(1.5 * FAST.lease)
            assert not waiting.done()
            assert not hold.done()
            waiting.cancel()
        assert kube.get(LEASE, namespace, "lease")["spec"]["holderIdentity"] == "first"

    electing(scenario)


def test_a_lease_that_is_released_needs_not_expire(electing, kube, namespace) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        first, standing_by = elector("first", LONG), asyncio.Event()
        second = elector("second", LONG, standing_by=standing_by.set)
        await soon(first.acquire())
        waiting = asyncio.create_task(second.acquire())
        await soon(standing_by.wait())
        await first.release()
        await soon(waiting)
        lease = kube.get(LEASE, namespace, "lease")["spec"]
        assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("second", 1)

    electing(scenario)


def test_a_lease_is_taken_over_when_it_expires_and_not_at_some_later_look(electing) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        await soon(elector("first").acquire())
        await soon(elector("second", replace(FAST, retry=3600.0)).acquire())

    electing(scenario)


def test_of_many_that_start_at_once_one_leads(electing) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        waits = [asyncio.Event() for _ in range(8)]
        tasks = [
            asyncio.create_task(elector(f"candidate-{number}", LONG, standing_by=event.set).acquire())
            for number, event in enumerate(waits)
        ]
        await soon(asyncio.gather(*map(decided, tasks, waits)))
        assert sum(task.done() for task in tasks) == 1
        for task in tasks:
            task.cancel()

    electing(scenario)


def test_one_that_died_is_succeeded_after_the_lease_and_not_before(electing) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        await soon(elector("dead").acquire())
        died = asyncio.get_running_loop().time()
        await soon(elector("next").acquire())
        assert asyncio.get_running_loop().time() - died >= FAST.lease

    electing(scenario)


@pytest.mark.parametrize("wrong", ["1970-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"])
def test_a_leader_with_a_wrong_clock_is_neither_robbed_nor_immortal(electing, kube, namespace, wrong: str) -> None:  # type: ignore[no-untyped-def]
    def renew(number: int) -> None:
        spec = {"holderIdentity": "wrong", "leaseDurationSeconds": 1, "renewTime": wrong, "leaseTransitions": number}
        if number == 0:
            kube.create(LEASE, namespace, "lease", spec=spec)
        else:
            kube.merge(LEASE, namespace, "lease", {"spec": spec})

    async def scenario(elector: Electors) -> None:
        renew(0)
        waiting = asyncio.create_task(elector("next").acquire())
        for number in range(1, 15):
            await asyncio.sleep(FAST.lease / 10)
            assert not waiting.done()
            await asyncio.to_thread(renew, number)
        await soon(waiting)

    electing(scenario)


def test_a_leader_that_is_replaced_notices(electing, kube, namespace) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        first = elector("first")
        await soon(first.acquire())
        async with holding(first) as hold:
            kube.merge(LEASE, namespace, "lease", {"spec": {"holderIdentity": "usurper"}})
            with pytest.raises(LeadershipLost, match="held by usurper"):
                await asyncio.wait_for(hold, 30)
        await first.release()
        assert kube.get(LEASE, namespace, "lease")["spec"]["holderIdentity"] == "usurper"

    electing(scenario)


def test_a_leader_whose_lease_was_deleted_takes_it_again(electing, kube, namespace) -> None:  # type: ignore[no-untyped-def]
    async def scenario(elector: Electors) -> None:
        first = elector("first")
        await soon(first.acquire())
        async with holding(first) as hold:
            kube.delete(LEASE, namespace, "lease")
            await asyncio.sleep(FAST.deadline)
            assert not hold.done()
        assert kube.get(LEASE, namespace, "lease")["spec"]["holderIdentity"] == "first"

    electing(scenario)


def test_a_leader_without_an_api_server_gives_up_before_another_may_lead(
    kube, namespace, wire: Wire, tmp_path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        async with (
            connected(wire.kubeconfig(kube.api, tmp_path), monkeypatch) as cut_off,
            connected(kube.api.kubeconfig, monkeypatch) as reachable,
        ):
            first = Elector(cut_off, namespace=namespace, name="lease", identity="first", timing=FAST)
            second = Elector(reachable, namespace=namespace, name="lease", identity="second", timing=FAST)
            await soon(first.acquire())
            async with holding(first) as hold:
                waiting = asyncio.create_task(second.acquire())
                await asyncio.to_thread(wire.cut)
                with pytest.raises(LeadershipLost):
                    await asyncio.wait_for(hold, 30)
                gave_up = clock()
                assert not waiting.done()
                await soon(waiting)
                assert clock() > gave_up

    asyncio.run(main())


def test_a_cut_that_ends_before_the_deadline_changes_no_leader(
    kube, namespace, wire: Wire, tmp_path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    timing = Timing(lease=5.0, deadline=3.0, retry=0.1)

    async def main() -> None:
        async with connected(wire.kubeconfig(kube.api, tmp_path), monkeypatch) as api:
            first = Elector(api, namespace=namespace, name="lease", identity="first", timing=timing)
            await soon(first.acquire())
            async with holding(first) as hold:
                await asyncio.to_thread(wire.cut)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(wire.mend)
                await asyncio.sleep(timing.deadline)
                assert not hold.done()

    asyncio.run(main())


class TestWhileTheMainLoopIsBusy:
    """A large fleet can keep the main loop for longer than a lease lasts, on a slow machine."""

    @staticmethod
    def candidacy(kube: Kube, namespace: str, lost: Callable[[Exception], None]) -> Candidacy:
        return Candidacy(
            lambda: Api.connect(user_agent="test"),
            lambda api: Elector(api, namespace=namespace, name="lease", identity="first", timing=FAST),
            lost=lost,
        )

    def test_the_lease_is_renewed(self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig))
        losses: list[Exception] = []

        async def main() -> None:
            async with self.candidacy(kube, namespace, losses.append) as candidacy:
                await soon(candidacy.won())
                before = (kube.get(LEASE, namespace, "lease") or {})["spec"]
                time.sleep(FAST.lease)  # noqa: ASYNC251 - this is the test
                after = (kube.get(LEASE, namespace, "lease") or {})["spec"]
                assert after["renewTime"] > before["renewTime"]
            assert (kube.get(LEASE, namespace, "lease") or {})["spec"]["holderIdentity"] == ""

        asyncio.run(main())
        assert losses == []

    def test_a_loss_is_noticed(self, kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kube.api.kubeconfig))
        lost = threading.Event()

        async def main() -> None:
            async with self.candidacy(kube, namespace, lambda _: lost.set()) as candidacy:
                await soon(candidacy.won())
                kube.merge(LEASE, namespace, "lease", {"spec": {"holderIdentity": "usurper"}})
                assert lost.wait(30)

        asyncio.run(main())

    def test_without_credentials_the_candidate_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))

        async def main() -> None:
            candidacy = Candidacy(
                lambda: Api.connect(user_agent="test"),
                lambda api: Elector(api, namespace="default", name="lease", identity="first", timing=FAST),
                lost=lambda _: None,
            )
            async with candidacy:
                await soon(candidacy.won())

        with pytest.raises(CredentialsError):
            asyncio.run(main())
