"""Jobs of a server, as processes of their own: no request waits for them, and none goes down with them."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

LONGEST_LINE: Final = 1 << 20
"""Bytes of what a command says at once."""
LOWER_PRIORITY: Final = 19
"""How much the processes yield to those that answer requests (nice(2)), where the system knows no idle ones."""


async def registry_server(name: str, command: Sequence[str], config_file: Path) -> bool:
    """Run a command of `registry-server`; what it says goes to the log, under a name. Whether it went well."""
    words = [sys.executable, "-m", "registry_server", *command, str(config_file)]
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=LONGEST_LINE
    )
    assert process.stdout is not None  # noqa: S101, it is a pipe
    try:
        with suppress(ProcessLookupError):
            _yield_to_others(process.pid)
        async for line in process.stdout:
            logger.info("%s: %s", name, line.decode(errors="replace").rstrip())
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
    if code:
        logger.warning("%s: `registry-server %s` ended with exit code %d", name, " ".join(command), code)
    return code == 0


def _yield_to_others(pid: int) -> None:
    """Let a process have what no other wants of the CPUs (sched(7), SCHED_IDLE)."""
    if sys.platform == "linux":
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, pid, LOWER_PRIORITY)
