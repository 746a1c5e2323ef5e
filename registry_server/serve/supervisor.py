"""The first process: starts the workers, replaces those that die, ends them all."""

import logging
import multiprocessing
import signal
import socket
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from registry_server.serve.shared import Shared
from registry_server.serve.worker import STOP_SIGNALS, work

logger = logging.getLogger(__name__)

CRASH_LOOP: Final = 5
"""Workers that may end unasked within a minute before the server gives up."""


class Supervisor:
    """Keeps the workers running."""

    def __init__(self, shared: Shared, count: int) -> None:
        self._shared = shared
        self._count = count
        # Forked from a process with a single thread, workers share its memory and start within milliseconds.
        self._context = multiprocessing.get_context("fork")
        self._workers: dict[int, BaseProcess] = {}
        self._deaths: list[float] = []
        self._wake, self._waker = socket.socketpair()
        self._stopping = False

    def run(self) -> int:
        """Returns the exit code."""
        for handled in STOP_SIGNALS:
            signal.signal(handled, self._stop)
        for index in range(self._count):
            self._start(index)
        while not self._stopping:
            wait([self._wake, *(worker.sentinel for worker in self._workers.values())])
            if not self._stopping and not self._replace_the_dead():
                self._end_all()
                return 1
        self._end_all()
        return 0

    def _stop(self, _number: int, _frame: Any) -> None:
        self._stopping = True
        self._waker.send(b"x")

    def _start(self, index: int) -> None:
        worker = self._context.Process(target=work, args=(self._shared, index), name=f"worker-{index}")
        # Held back until the worker has handlers of its own: those it inherits would swallow what it is told.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._workers[index] = worker

    def _replace_the_dead(self) -> bool:
        """False when workers end too often for another try to help."""
        for index, worker in list(self._workers.items()):
            if worker.is_alive():
                continue
            logger.error("worker %d ended with exit code %s; starting another", index, worker.exitcode)
            now = time.monotonic()
            self._deaths = [death for death in self._deaths if now - death < 60] + [now]
            if len(self._deaths) > CRASH_LOOP:
                logger.error("workers keep ending; giving up")
                return False
            self._start(index)
        return True

    def _end_all(self) -> None:
        notice, drain = self._shared.config.shutdown.notice, self._shared.config.http.draintimeout
        logger.info("stopping: no new connections after %s; requests in progress then have %s", notice, drain)
        self._shared.stop_listening()
        for worker in self._workers.values():
            worker.terminate()
        deadline = time.monotonic() + (notice + drain).total_seconds() + 2
        for worker in self._workers.values():
            worker.join(max(deadline - time.monotonic(), 0.1))
            if worker.is_alive():
                worker.kill()
                worker.join()
        logger.info("stopped")
