"""Whether a port of this machine can be listened on."""

import socket


def refusal(port: int) -> str | None:
    """Why 127.0.0.1:`port` can't be listened on, as the system says it; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None
