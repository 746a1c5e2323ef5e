"""What registry servers say of their jobs, where no pod runs: a web server on loopback, as long as the process."""

import functools
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

ANSWERS: Final[dict[str, Any]] = {}
"""By `/NAMESPACE/SERVICE`; others are 404."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = ANSWERS.get(self.path)
        content = json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, as the library calls it
        pass


@functools.cache
def jobs_url() -> str:
    """What the operator is to ask."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/{{namespace}}/{{service}}"
