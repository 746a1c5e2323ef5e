"""Leader election over a Lease: of several operators only the one that holds it reconciles.

Clocks of different machines are never compared. An elector that does not hold the Lease notes, by its own monotonic
clock, when it last saw the Lease change; only after a whole lease duration without a change does it take over. The
holder gives up, and the process ends, when it could not renew for the deadline, which is shorter. So there are never
two leaders while clocks run at about the same speed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Self

from prometheus_client import Gauge

from registry_operator.api.kinds import Kind
from registry_operator.cluster.kubernetes.api import Api, Refusal, path
from registry_operator.cluster.protocol import Rejected, Unavailable

LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
LEADING = Gauge("regatta_operator_leader", "1 while this process holds the Lease, or works without one.")

logger = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The Lease could not be renewed in time, or somebody else holds it. The process must stop at once."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `retry` < `deadline` < `lease`, as in the controllers of Kubernetes itself, whose values these are."""

    lease: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


class Elector:
    """One candidate, named `identity`, for the Lease `namespace`/`name`. `standing_by` is called when another leads."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing = Timing(),
        standing_by: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._standing_by = standing_by
        self._namespace: Final = namespace
        self._name: Final = name
        self._timing: Final = timing
        self.identity: Final = identity
        self._seen: dict[str, Any] | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._waits_for: str | None = None

    async def acquire(self) -> None:
        """Return once the Lease is ours."""
        while not await self._try(self._timing.retry):  # noqa: ASYNC110 - what to wait for is on another machine
            await asyncio.sleep(self._until_next_try())
        LEADING.set(1)
        logger.info("%s leads: it holds the Lease %s/%s", self.identity, self._namespace, self._name)

    async def hold(self) -> None:
        """Renew until cancelled. Raises LeadershipLost."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._timing.retry)
            left = self._renewed_at + self._timing.deadline - clock()
            renewed = left > 0 and await self._try(left)
            if not renewed and (self._held_by_another() or clock() >= self._renewed_at + self._timing.deadline):
                LEADING.set(0)
                raise LeadershipLost(
                    f"{self.identity} leads no more: the Lease {self._namespace}/{self._name} is held by "
                    f"{self._holder() or 'nobody'} and was last renewed {clock() - self._renewed_at:.1f} s ago"
                )

    async def release(self) -> None:
        """Give the Lease up if it is ours, so that the next candidate need not wait for it to expire."""
        LEADING.set(0)
        if self._holder() != self.identity:
            return
        try:
            async with asyncio.timeout(self._timing.deadline):
                # A renewal that was cancelled may have taken effect, and the Lease we know of be outdated.
                self._look_at(await self._read())
                if self._seen is None or self._holder() != self.identity:
                    return
                spec = self._seen["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._write(self._seen | {"spec": spec})
        except (Rejected, Unavailable, TimeoutError) as error:
            logger.warning("the Lease %s/%s could not be released: %s", self._namespace, self._name, error)
        else:
            logger.info("%s released the Lease %s/%s", self.identity, self._namespace, self._name)

    async def _try(self, seconds: float) -> bool:
        """Take or renew the Lease within this time, if it is free or ours."""
        try:
            async with asyncio.timeout(seconds):
                return await self._take_or_renew()
        except Refusal as error:
            # Somebody else was faster. What they wrote shows at the next try.
            if error.code != HTTPStatus.CONFLICT:
                logger.error("the Lease %s/%s is refused: %s", self._namespace, self._name, error)  # noqa: TRY400
        except (Unavailable, TimeoutError) as error:
            logger.warning(
                "the Lease %s/%s is out of reach: %s", self._namespace, self._name, str(error) or "no answer in time"
            )
        return False

    def _until_next_try(self) -> float:
        """Seconds: fewer than usual where the holder's time is over before."""
        left = self._seen_at + self._duration() - asyncio.get_running_loop().time()
        return left if self._held_by_another() and 0 < left < self._timing.retry else self._timing.retry

    async def _take_or_renew(self) -> bool:
        started = asyncio.get_running_loop().time()
        self._look_at(await self._read())
        if self._held_by_another() and started < self._seen_at + self._duration():
            if self._waits_for != self._holder():
                self._waits_for = self._holder()
                logger.info("%s stands by: %s leads", self.identity, self._waits_for)
                self._standing_by()
            return False
        self._look_at(await self._write(self._desired()))
        # Counted from before the request: the others count from when it took effect, which was later.
        self._renewed_at = started
        return True

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._api.request("GET", path(LEASE, self._namespace, self._name))
        except Refusal as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def _write(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Create or replace; a resourceVersion in it makes a race of two writers a conflict for one of them."""
        if "resourceVersion" in lease["metadata"]:
            return await self._api.request("PUT", path(LEASE, self._namespace, self._name), body=lease)
        return await self._api.request("POST", path(LEASE, self._namespace), body=lease)

    def _look_at(self, lease: dict[str, Any] | None) -> None:
        if lease is None or self._seen is None or lease.get("spec") != self._seen.get("spec"):
            self._seen_at = asyncio.get_running_loop().time()
        self._seen = lease

    def _desired(self) -> dict[str, Any]:
        now = _now()
        lease = self._seen or {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {},
        }
        spec = {
            **(lease.get("spec") or {}),
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.lease)),
            "renewTime": now,
        }
        if self._holder() != self.identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = spec.get("leaseTransitions", -1) + 1
        return lease | {"spec": spec}

    def _holder(self) -> str:
        return str(((self._seen or {}).get("spec") or {}).get("holderIdentity") or "")

    def _held_by_another(self) -> bool:
        return self._holder() not in ("", self.identity)

    def _duration(self) -> float:
        """How long the holder asked to be left alone, or our own idea of it if that is longer."""
        seconds = ((self._seen or {}).get("spec") or {}).get("leaseDurationSeconds") or 0
        return max(float(seconds), self._timing.lease)


class Candidacy:
    """An elector in a thread with a loop and connections of its own, from `async with` to its end.

    So the Lease is renewed however busy the main loop is with a large fleet, and `lost` is called, in that thread, even
    if the main loop hangs. (That it does is for the liveness probe to see.) The end gives the Lease back.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Api]],
        elector: Callable[[Api], Elector],
        *,
        lost: Callable[[Exception], None],
    ) -> None:
        self._connect = connect
        self._elector = elector
        self._lost = lost
        self._won = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="elector")

    async def __aenter__(self) -> Self:
        self._main = asyncio.get_running_loop()
        self._ended = self._main.run_in_executor(self._thread, self._loop.run_until_complete, self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._withdrawn.set)
        try:
            await self._ended
        finally:
            self._thread.shutdown()
            self._loop.close()

    async def won(self) -> None:
        """Return once the Lease is ours. Raises CredentialsError."""
        winning = asyncio.create_task(self._won.wait())
        either: set[asyncio.Future[Any]] = {winning, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not winning.done():
            winning.cancel()
            await self._ended

    async def _run(self) -> None:
        api = await self._connect()
        elector = self._elector(api)
        leading = asyncio.create_task(self._lead(elector))
        withdrawn = asyncio.create_task(self._withdrawn.wait())
        try:
            await asyncio.wait({leading, withdrawn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leading.cancel()
            withdrawn.cancel()
            await asyncio.gather(leading, withdrawn, return_exceptions=True)
            await elector.release()
            await api.close()

    async def _lead(self, elector: Elector) -> None:
        await elector.acquire()
        self._main.call_soon_threadsafe(self._won.set)
        try:
            await elector.hold()
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody renews the Lease any more
            self._lost(error)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
