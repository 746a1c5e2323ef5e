"""Health and metrics over plain HTTP: `/healthz`, `/readyz`, `/metrics`.

They answer from the loop that reconciles: when that hangs, so do they, and the kubelet restarts the pod.
"""

import dataclasses
import enum

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class Phase(enum.Enum):
    """How far the process has come, in words for `/readyz`."""

    STARTING = "starting: no answer from the API server yet"
    STANDBY = "standing by: another process leads"
    SYNCING = "leading: reading what exists"
    RUNNING = "leading: reconciling"
    STOPPING = "stopping"

    @property
    def ready(self) -> bool:
        """A standby is as ready as it gets; a rollout must not wait for it to lead."""
        return self in (Phase.STANDBY, Phase.RUNNING)


@dataclasses.dataclass(slots=True)
class Health:
    """The phase that the process is in."""

    phase: Phase = Phase.STARTING


class AddressInUse(Exception):
    """The endpoints' address cannot be listened on. The message says which and why."""


async def start(host: str, port: int, health: Health) -> web.AppRunner:
    """Serve the endpoints until the runner's `cleanup()`. Port 0 takes a free one. Raises AddressInUse."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text=f"{health.phase.value}\n", status=200 if health.phase.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host or None, port).start()
    except OSError as error:
        await runner.cleanup()
        raise AddressInUse(
            f"cannot listen on {host}:{port} for health and metrics: {error.strerror or error}; "
            "choose another address with --metrics-addr"
        ) from error
    return runner
