"""Shows a person that a long step is alive: a line with its elapsed seconds, renewed in place on a terminal."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()

    @contextmanager
    def step(self, name: str, doing: str) -> Iterator[None]:
        """Shows `name: doing … N s` until the block ends."""
        start = time.monotonic()
        ended = threading.Event()

        def line(outcome: str = "") -> None:
            text = f"{name}: {doing} … {time.monotonic() - start:.0f} s{outcome}"
            self._stream.write(f"\r\033[K{text}" + ("\n" if outcome else "") if self._live else f"{text}\n")
            self._stream.flush()

        def tick() -> None:
            while not ended.wait(1 if self._live else 30):
                line()

        line()
        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        outcome = ", done"
        try:
            yield
        except BaseException as error:
            outcome = f", failed: {error}".splitlines()[0]
            raise
        finally:
            ended.set()
            ticker.join()
            line(outcome)
