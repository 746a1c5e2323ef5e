"""Runs as a script of its own: becomes the command after asking the kernel to end it with its parent.

    python -I -S launcher.py PARENT_PID COMMAND…

A child cannot be told so from outside, and running Python between fork and exec is unsafe in a process with threads. So
the child is this script first. The request survives exec; should the parent have died before, we go at once.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns: the process becomes the command, or ends with 127 if there is no such command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606, the command is the pod template's own
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
