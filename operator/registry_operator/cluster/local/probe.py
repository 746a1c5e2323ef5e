"""A container's probes, asked over HTTP as the kubelet asks them."""

import asyncio
import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

_EAGER_PERIOD: Final = 0.1
"""Seconds between attempts until a probe first succeeds: someone is waiting."""
_PASS: Final = range(200, 400)


class Unsupported(Exception):
    """A probe of a type that local mode does not know."""


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP probe: what is asked, how often (seconds), and how many answers in a row count."""

    port: int
    path: str
    scheme: str
    headers: Mapping[str, str]
    period: float
    timeout: float
    failure_threshold: int
    success_threshold: int

    @classmethod
    def of(cls, container: Mapping[str, Any], name: str) -> Self | None:
        """The probe of that name in a container's spec. Raises Unsupported."""
        spec = container.get(name)
        if spec is None:
            return None
        if "httpGet" not in spec:
            raise Unsupported(f"{name} is no httpGet, the one type that local mode knows")
        request = spec["httpGet"]
        return cls(
            port=_port(container, request["port"]),
            path=request.get("path", "/"),
            scheme=request.get("scheme", "HTTP"),
            headers={header["name"]: header["value"] for header in request.get("httpHeaders", ())},
            period=spec.get("periodSeconds", 10),
            timeout=spec.get("timeoutSeconds", 1),
            failure_threshold=spec.get("failureThreshold", 3),
            success_threshold=spec.get("successThreshold", 1),
        )

    async def failure(self) -> str | None:
        """Ask once: None if all is well, otherwise what is not."""
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> str | None:
        try:
            connection = self._connect()
            try:
                connection.request("GET", self.path, headers=dict(self.headers))
                response = connection.getresponse()
                body = response.read(200).decode(errors="replace").strip()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            return f"{self.path} on port {self.port}: {error}"
        if response.status in _PASS:
            return None
        return f"{self.path} on port {self.port} answered {response.status}: {body}"

    def _connect(self) -> http.client.HTTPConnection:
        if self.scheme == "HTTPS":
            # The kubelet does not verify either: it asks by address, which no certificate needs to name.
            trusting = ssl._create_unverified_context()  # noqa: S323
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=self.timeout, context=trusting)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)


class Prober:
    """One probe over time: counts answers, knows when it is due."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.due = time.monotonic()
        self.passed: bool = False
        self.failed: bool = False
        self.last_failure = "no answer yet"
        self._deadline = self.due + probe.period * probe.failure_threshold
        self._in_a_row = 0
        self._answer: bool | None = None

    async def ask(self) -> None:
        """Ask once and judge: `passed` and `failed` follow the thresholds, and stay as they are between them."""
        failure = await self.probe.failure()
        self.last_failure = failure or self.last_failure
        well = failure is None
        self._in_a_row = self._in_a_row + 1 if well == self._answer else 1
        self._answer = well
        if well and self._in_a_row >= self.probe.success_threshold:
            self.passed, self.failed = True, False
        never_passed = not self.passed and not self.failed
        if not well and (time.monotonic() > self._deadline if never_passed else self._failed_often()):
            self.passed, self.failed = False, True
        eager = never_passed and not self.passed
        self.due = time.monotonic() + (min(_EAGER_PERIOD, self.probe.period) if eager else self.probe.period)

    def _failed_often(self) -> bool:
        return self._in_a_row >= self.probe.failure_threshold


def _port(container: Mapping[str, Any], port: int | str) -> int:
    if isinstance(port, int):
        return port
    return next(int(named["containerPort"]) for named in container["ports"] if named.get("name") == port)
