"""The engine's listeners: what begins and ends at once, ends."""

import asyncio

import pytest

from registry_server.http.engine import Exchange, Listener, Scope, bind
from tests.fixtures.processes import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
def test_one_that_is_retired_before_it_has_begun_to_accept_closes(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker may be told to stop while it starts."""

    async def application(scope: Scope, exchange: Exchange, closing: bool) -> None:
        exchange.response_empty(204, [])

    async def scenario() -> None:
        with bind(host, free_port()) as listening:
            for _ in range(20):
                listener = Listener(application, listening, certificate=None, http2=False)
                listener.retire()
                await asyncio.wait_for(listener.close(), 30)

    asyncio.run(scenario())
    assert "panicked" not in capfd.readouterr().err
