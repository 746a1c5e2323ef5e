"""Leaves a store alone that does not answer, so that its clients are told at once instead of after retries."""

import time
from typing import Final

THRESHOLD: Final = 3
"""Requests in a row without an answer (each tried several times) before the store counts as away."""
PAUSE: Final = 2.0
"""Seconds between attempts while it is away: one request goes through, the others fail at once."""


class Breaker:
    """Closed while the store answers; open while it does not."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0

    def lets_through(self) -> bool:
        """Whether a request may go to the store now. While it is away that is one each PAUSE."""
        if self._failures < THRESHOLD:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE
        return True

    def answered(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._retry_at = time.monotonic() + PAUSE
