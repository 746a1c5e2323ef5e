"""One child process: its own session, its output in a log file, gone when we are."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from registry_operator.cluster.local.log import RotatingLog

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_CHUNK: Final = 64 * 2**10


class Process:
    """A running command. It has no part in our terminal's Ctrl-C; `stop` ends it, and so does our own end."""

    def __init__(self, process: asyncio.subprocess.Process, output: int, log: RotatingLog) -> None:
        self._process = process
        self._output = output
        self._log = log
        self._ended = asyncio.create_task(self._until_end())
        self.pid: Final = process.pid

    @classmethod
    async def start(cls, command: Sequence[str], *, environment: Mapping[str, str], cwd: Path, log: Path) -> "Process":
        """Start the command with this environment and no other."""
        file = RotatingLog(log)
        # A pipe of our own: asyncio's would count as part of the process, and whatever it starts keeps that open.
        output, theirs = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        return cls(process, output, file)

    async def ended(self) -> int:
        """Wait for the end; returns the exit code, negative for a signal. A cancelled wait leaves the process alone."""
        return await asyncio.shield(self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing to stop any more."""
        return self._ended.done()

    async def stop(self, *, grace: float) -> None:
        """Ask the process to end; end it after `grace` seconds."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()

    def kill(self) -> None:
        """End the process and whatever it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _until_end(self) -> int:
        pump = asyncio.create_task(self._pump())
        code = await self._process.wait()
        self.kill()  # what it left behind
        await pump
        self._log.close()
        return code

    async def _pump(self) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._output, "rb")
        )
        while content := await reader.read(_CHUNK):
            # A full disk costs lines; a full pipe would stop the process.
            with contextlib.suppress(OSError):
                self._log.write(content)
        transport.close()
