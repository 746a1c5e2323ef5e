"""What administrators ask of a registry's jobs, and what whoever reaches the debug port may read of them (`/jobs`).

GET /v2/_regatta/jobs           what recurs and when, how the last runs ended, what runs now
POST /v2/_regatta/jobs/NAME     begin it now: 202, 404 without such a job, 409 while another is at work
DELETE /v2/_regatta/jobs/NAME   have it end soon: 202, 404 where it does not run
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from registry_server.http.handlers import JSON, Handler
from registry_server.http.message import Request, Response
from registry_server.http.routes import Resource, Target
from registry_server.jobs.occupancy import Occupied
from registry_server.registry.errors import JobOccupied, JobUnknown, Unsupported
from registry_server.registry.uploads import Visible

FRESH: Final = 1.0
"""Seconds for which an answer without a login serves for others: nobody shall have the storage asked all the time."""


class Jobs(Protocol):
    """Raises StorageError where the storage does not answer."""

    async def document(self) -> dict[str, Any]: ...
    async def begin(self, name: str) -> bool: ...
    async def end(self, name: str) -> bool: ...
    def changes(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class JobHandlers:
    """The API over the jobs of a server."""

    jobs: Jobs
    read_only: bool = False

    def table(self) -> dict[tuple[Resource, str], Handler]:
        """The handler of each resource and method."""
        return {("jobs", "GET"): self.list, ("job", "POST"): self.begin, ("job", "DELETE"): self.end}

    async def list(self, request: Request, target: Target, visible: Visible) -> Response:
        return Response(200, [JSON, ("cache-control", "no-store")], _dump(await self.jobs.document()))

    async def begin(self, request: Request, target: Target, visible: Visible) -> Response:
        if self.read_only and self.jobs.changes(target.reference):
            raise Unsupported("the registry is read-only for maintenance")
        try:
            known = await self.jobs.begin(target.reference)
        except Occupied as error:
            raise JobOccupied(str(error)) from error
        if not known:
            raise JobUnknown("there is no such job, or the configuration does not have it")
        return Response(202, [JSON], _dump({"name": target.reference}))

    async def end(self, request: Request, target: Target, visible: Visible) -> Response:
        if not await self.jobs.end(target.reference):
            raise JobUnknown("this job does not run")
        return Response(202, [JSON], _dump({"name": target.reference}))


class JobsPage:
    """What anyone who reaches the debug port may know."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._asking = asyncio.Lock()
        self._content = b""
        self._made = -FRESH

    async def content(self) -> bytes:
        """Raises StorageError."""
        async with self._asking:
            if time.monotonic() - self._made >= FRESH:
                self._content = _dump(await self._jobs.document())
                self._made = time.monotonic()
            return self._content


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
