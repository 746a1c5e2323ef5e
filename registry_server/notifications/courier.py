"""Delivery: one process of all that share a journal brings each endpoint its events, in order, until it takes them.

An event counts as delivered when the endpoint answers 2xx or, as in distribution, 3xx, but for those that say that the
endpoint is elsewhere: to follow them would show its headers to someone else, to take them for a yes would lose events.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar

from registry_server import __version__
from registry_server.config import Endpoint, Notifications
from registry_server.metrics import Metrics
from registry_server.notifications.events import MEDIA_TYPES, message
from registry_server.notifications.journal import Journal, Position

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.2
"""Seconds between looks at the journal, when there was nothing new in it."""
LOCK_EVERY: Final = 1.0
"""Seconds after which another process takes over from one that ended."""
MOVED: Final = (301, 307, 308)
"""Answers that tell of another address."""


class Couriers:
    """What one process does to deliver: nothing while another one does."""

    def __init__(self, journal: Journal, settings: Notifications, metrics: Metrics) -> None:
        self._journal = journal
        self._settings = settings
        self._metrics = metrics

    async def run(self) -> None:
        """Deliver, for ever."""
        while True:
            try:
                with self._journal.couriers_lock() as ours:
                    if ours:
                        await self._deliver()
            except OSError as error:
                logger.error("events can't be delivered: %s", error)  # noqa: TRY400
            except Exception:
                logger.exception("the delivery of events failed; it begins anew")
            await asyncio.sleep(LOCK_EVERY)

    async def _deliver(self) -> None:
        # No cookies: an endpoint may not recognize one event by another.
        async with ClientSession(cookie_jar=DummyCookieJar(), trust_env=True) as session, asyncio.TaskGroup() as tasks:
            for endpoint in self._settings.enabled:
                courier = Courier(endpoint, self._journal, session, self._metrics)
                tasks.create_task(courier.run(), name=endpoint.name)


class Courier:
    """One endpoint's."""

    def __init__(self, endpoint: Endpoint, journal: Journal, session: ClientSession, metrics: Metrics) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._session = session
        self._metrics = metrics
        self._url = endpoint.url.get_secret_value()
        self._headers = _headers(endpoint)
        self._failures = 0

    async def run(self) -> None:
        """Deliver, for ever."""
        while True:
            try:
                async with self._position() as position:
                    while True:
                        if not await self._deliver_batch(position):
                            await asyncio.sleep(LOOK_EVERY)
            except OSError as error:
                logger.error("the events for endpoint %s can't be read: %s", self._endpoint.name, error)  # noqa: TRY400
                await asyncio.sleep(LOCK_EVERY)

    @asynccontextmanager
    async def _position(self) -> AsyncIterator[Position]:
        position = await asyncio.to_thread(self._journal.position, self._endpoint.name)
        try:
            yield position
        finally:
            position.close()

    async def _deliver_batch(self, position: Position) -> bool:
        """False when there was nothing to deliver."""
        batch = await asyncio.to_thread(self._journal.read, position.number)
        if batch.first > position.number:
            lost = batch.first - position.number
            logger.error(
                "endpoint %s was away for so long that its oldest %d event(s) were dropped", self._endpoint.name, lost
            )
            self._metrics.notification(self._endpoint.name, "dropped", lost)
        self._metrics.notifications_pending(self._endpoint.name, batch.end - batch.first)
        for number, line in enumerate(batch.lines, start=batch.first):
            await self._deliver(line)
            position.advance(number + 1)
            self._metrics.notifications_pending(self._endpoint.name, batch.end - number - 1)
        if batch.lines:
            await asyncio.to_thread(self._journal.trim, self._journal.slowest(position.number))
        return bool(batch.lines)

    async def _deliver(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:  # a power failure took its content and left its place
            logger.error("an event for endpoint %s is damaged; it is skipped", self._endpoint.name)  # noqa: TRY400
            return
        if self._endpoint.wants(event["action"], event["target"]["mediaType"]):
            await self._send_until_taken(message(event, self._endpoint.format))

    async def _send_until_taken(self, content: bytes) -> None:
        """Try again at once, but for every `backoff` only after `threshold` failures in a row, as distribution does."""
        while (failure := await self._send(content)) is not None:
            self._failures += 1
            self._metrics.notification(self._endpoint.name, "failed")
            if self._failures == self._endpoint.threshold:
                logger.warning(
                    "endpoint %s has failed %d time(s) in a row: %s; its events wait",
                    self._endpoint.name,
                    self._failures,
                    failure,
                )
            if self._failures >= self._endpoint.threshold:
                await asyncio.sleep(self._endpoint.backoff.total_seconds())
        if self._failures >= self._endpoint.threshold:
            logger.info("endpoint %s takes events again", self._endpoint.name)
        self._failures = 0
        self._metrics.notification(self._endpoint.name, "delivered")

    async def _send(self, content: bytes) -> str | None:
        """Why the endpoint has not taken it; None when it has."""
        timeout = ClientTimeout(total=self._endpoint.timeout.total_seconds())
        try:
            async with self._session.post(
                self._url, data=content, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status in MOVED:
                    return f"it answers {response.status}, which is not followed; give the URL it leads to"
                return None if 200 <= response.status < 400 else f"it answers {response.status}"
        except TimeoutError:
            return f"no answer within {timeout.total:g} s"
        except (ClientError, OSError, ValueError) as error:
            return self._without_secrets(str(error) or type(error).__name__)

    def _without_secrets(self, text: str) -> str:
        """The URL may hold a password or a token; its host says enough."""
        return text.replace(self._url, self._endpoint.address)


def _headers(endpoint: Endpoint) -> list[tuple[str, str]]:
    """What the endpoint is to get with each event; its own settings replace ours."""
    own = [(name, value.get_secret_value()) for name, values in endpoint.headers.items() for value in values]
    ours = [("Content-Type", MEDIA_TYPES[endpoint.format]), ("User-Agent", f"regatta/{__version__}")]
    named = {name.lower() for name, _ in own}
    return [*own, *((name, value) for name, value in ours if name.lower() not in named)]
