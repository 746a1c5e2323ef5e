"""Questions to registry servers."""

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any, Final

import aiohttp

ANSWERED_WITHIN: Final = 3.0
"""Seconds."""
LONGEST: Final = 1 << 20
"""Bytes of an answer."""

logger = logging.getLogger(__name__)


async def ask(url: str) -> Any | None:
    """The JSON that a server answers with; None where it doesn't: that it should is what conditions are for."""
    try:
        async with (
            asyncio.timeout(ANSWERED_WITHIN),
            aiohttp.ClientSession() as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                logger.debug("%s answers with %d", url, response.status)
                return None
            content = await response.content.read(LONGEST)
            while more := await response.content.read(LONGEST - len(content)):
                content += more
            return json.loads(content)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        logger.debug("%s does not answer: %s", url, error)
        return None
