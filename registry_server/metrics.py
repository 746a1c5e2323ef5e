"""Metrics: counted in plain Python on the way of a request, and put together over all workers when Prometheus asks.

Each worker publishes what it has counted as a file of a folder that the workers share, each second and when it ends; a
scrape reads them all. The counts of a worker that is gone stay, so that no counter ever goes back.
"""

import json
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from registry_server import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds in seconds."""
MAX_REPOSITORIES: Final = 1000
"""Repositories with counters of their own; all further ones share `_other`, which can't be a repository's name."""

_Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric's name, help and labels."""

    name: str
    help: str
    labels: _Labels = ()


Measured = Mapping[Family, Mapping[_Labels, float]]
"""Values by their labels."""

REQUESTS: Final = Family("regatta_http_requests", "Requests answered.", ("route", "method", "code"))
RECEIVED: Final = Family("regatta_http_request_bytes", "Bytes of request bodies received.", ("route",))
SENT: Final = Family("regatta_http_response_bytes", "Bytes of response bodies sent.", ("route",))
REPOSITORIES: Final = Family(
    "regatta_repository_operations", "Manifests pulled and pushed, by repository.", ("repository", "action")
)
UPLOADS: Final = Family(
    "regatta_upload_sessions", "Upload sessions started, finished, cancelled and failed.", ("event",)
)
AUTH_FAILURES: Final = Family("regatta_authentication_failures", "Requests whose login was refused.", ("reason",))
PROXY_PULLS: Final = Family(
    "regatta_proxy_pulls",
    "Manifests and blobs pulled through the cache: hit, miss, or stale for want of the upstream.",
    ("upstream", "kind", "result"),
)
PROXY_BYTES: Final = Family("regatta_proxy_upstream_bytes", "Bytes received from upstreams.", ("upstream",))
PROXY_ERRORS: Final = Family("regatta_proxy_upstream_errors", "Requests that upstreams failed.", ("upstream", "reason"))
NOTIFICATIONS: Final = Family(
    "regatta_notification_events",
    "Events that an endpoint took, tries to deliver one that failed, and events dropped.",
    ("endpoint", "outcome"),
)
COUNTERS: Final = (
    REQUESTS,
    RECEIVED,
    SENT,
    REPOSITORIES,
    UPLOADS,
    AUTH_FAILURES,
    PROXY_PULLS,
    PROXY_BYTES,
    PROXY_ERRORS,
    NOTIFICATIONS,
)

DURATIONS: Final = Family(
    "regatta_http_request_duration_seconds", "Time from a request's head to its response's.", ("route", "method")
)
STORAGE: Final = Family(
    "regatta_storage_operation_duration_seconds", "Time of storage operations that write.", ("operation",)
)
HISTOGRAMS: Final = (DURATIONS, STORAGE)

IN_FLIGHT: Final = Family("regatta_http_requests_in_flight", "Requests being answered.")
PENDING: Final = Family("regatta_notification_events_pending", "Events that wait for an endpoint.", ("endpoint",))
USED_BYTES: Final = Family(
    "regatta_repository_used_bytes", "Bytes that a repository under a quota takes.", ("repository",)
)
USED_TAGS: Final = Family("regatta_repository_used_tags", "Tags of a repository under a quota.", ("repository",))
QUOTA_USED_BYTES: Final = Family(
    "regatta_quota_used_bytes", "Bytes that the repositories of a quota take together.", ("repositories",)
)
QUOTA_USED_TAGS: Final = Family(
    "regatta_quota_used_tags", "Tags that the repositories of a quota have together.", ("repositories",)
)
QUOTA_BYTES: Final = Family("regatta_quota_limit_bytes", "Bytes that a quota allows.", ("repositories", "together"))
QUOTA_TAGS: Final = Family("regatta_quota_limit_tags", "Tags that a quota allows.", ("repositories", "together"))
# Not labelled `job`: Prometheus calls so what it scrapes.
JOB_ENDED: Final = Family(
    "regatta_job_timestamp_seconds", "When a job's last run ended, in seconds since 1970.", ("name",)
)
JOB_SUCCEEDED: Final = Family(
    "regatta_job_last_success_timestamp_seconds",
    "When a job's last run ended that came to a good end; without any, since when one is awaited.",
    ("name",),
)
JOB_PERIOD: Final = Family("regatta_job_period_seconds", "How long it is from one run of a job to the next.", ("name",))
JOB_SECONDS: Final = Family("regatta_job_duration_seconds", "How long a job's last run took.", ("name",))
JOB_SUCCESS: Final = Family(
    "regatta_job_success", "1 if a job's last run came to a good end, 0 if it broke off or found damage.", ("name",)
)
JOB_BYTES: Final = Family(
    "regatta_job_bytes", "Bytes that a job's last run discarded, purged, copied or held.", ("name", "what")
)
JOB_RUNNING: Final = Family("regatta_job_running", "1 while a job runs.", ("name",))
JOB_REMAINING: Final = Family(
    "regatta_job_remaining_seconds", "How long a job that runs will take at its pace so far.", ("name",)
)
MEASURED: Final = (
    USED_BYTES,
    USED_TAGS,
    QUOTA_USED_BYTES,
    QUOTA_USED_TAGS,
    QUOTA_BYTES,
    QUOTA_TAGS,
    JOB_ENDED,
    JOB_SUCCEEDED,
    JOB_PERIOD,
    JOB_SECONDS,
    JOB_SUCCESS,
    JOB_BYTES,
    JOB_RUNNING,
    JOB_REMAINING,
)
"""What one worker of a server finds out now and then."""
GAUGES: Final = (IN_FLIGHT, PENDING, *MEASURED)


class Metrics:
    """What one worker has counted since it began."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / f"{os.getpid()}-{time.monotonic_ns()}.json"
        self._counters: dict[str, defaultdict[_Labels, int]] = {family.name: defaultdict(int) for family in COUNTERS}
        self._histograms: dict[str, defaultdict[_Labels, list[float]]] = {
            family.name: defaultdict(_empty_histogram) for family in HISTOGRAMS
        }
        self._repositories: set[str] = set()
        self._pending: dict[_Labels, int] = {}
        self._measured: dict[str, Mapping[_Labels, float]] = {}
        self.in_flight = 0
        self.changed = False
        """Whether something was counted since the last `publish`."""
        self._requests = self._counters[REQUESTS.name]
        self._durations = self._histograms[DURATIONS.name]

    def request(self, route: str, method: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count an answered request: seconds it took, bytes of its body and of the response's."""
        self.changed = True
        self._requests[route, method, str(status)] += 1
        histogram = self._durations[route, method]
        histogram[bisect_left(BUCKETS, seconds)] += 1
        histogram[-1] += seconds
        if received:
            self._counters[RECEIVED.name][route,] += received
        if sent:
            self._counters[SENT.name][route,] += sent

    def repository(self, name: str, action: str) -> None:
        """Count a pull or a push of a manifest."""
        if name not in self._repositories:
            if len(self._repositories) >= MAX_REPOSITORIES:
                name = "_other"
            self._repositories.add(name)
        self._counters[REPOSITORIES.name][name, action] += 1

    def upload(self, event: str) -> None:
        """Count what became of an upload session."""
        self._counters[UPLOADS.name][event,] += 1

    def auth_failure(self, reason: str) -> None:
        """Count a refused login."""
        self._counters[AUTH_FAILURES.name][reason,] += 1

    def proxy_pull(self, upstream: str, kind: str, result: str) -> None:
        """Count a manifest or a blob that was pulled through the cache."""
        self._counters[PROXY_PULLS.name][upstream, kind, result] += 1

    def proxy_bytes(self, upstream: str, count: int) -> None:
        """Count what an upstream sent."""
        self._counters[PROXY_BYTES.name][upstream,] += count

    def proxy_error(self, upstream: str, reason: str) -> None:
        """Count a failure of an upstream."""
        self._counters[PROXY_ERRORS.name][upstream, reason] += 1

    def notification(self, endpoint: str, outcome: str, count: int = 1) -> None:
        """Count what became of events for an endpoint."""
        self.changed = True
        self._counters[NOTIFICATIONS.name][endpoint, outcome] += count

    def notifications_pending(self, endpoint: str, count: int) -> None:
        """Tell how many events wait for an endpoint."""
        if self._pending.get((endpoint,)) != count:
            self.changed = True
            self._pending[endpoint,] = count

    def measured(self, measured: Measured) -> None:
        """Tell what was found out, in place of what was told before of the same families, which are of `MEASURED`."""
        self.changed = True
        self._measured.update({family.name: values for family, values in measured.items()})

    def storage(self, operation: str, seconds: float) -> None:
        """Count a storage operation."""
        histogram = self._histograms[STORAGE.name][operation,]
        histogram[bisect_left(BUCKETS, seconds)] += 1
        histogram[-1] += seconds

    def publish(self) -> None:
        """Let other workers see these counts."""
        self.changed = False
        snapshot = {
            "pid": os.getpid(),
            "counters": {name: _pairs(values) for name, values in self._counters.items()},
            "histograms": {name: _pairs(values) for name, values in self._histograms.items()},
            "gauges": {
                IN_FLIGHT.name: [((), self.in_flight)],
                PENDING.name: _pairs(self._pending),
                **{name: _pairs(values) for name, values in self._measured.items()},
            },
        }
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(snapshot))
        temporary.rename(self._file)

    def exposition(self) -> bytes:
        """The counts of all workers in Prometheus' text format."""
        self.publish()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Workers(self._directory))
        return generate_latest(registry)


class _Workers(Collector):
    """The published counts of all workers, added up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        snapshots: list[dict[str, Any]] = [json.loads(file.read_text()) for file in self._directory.glob("*.json")]
        alive = [snapshot for snapshot in snapshots if Path(f"/proc/{snapshot['pid']}").exists()]
        info = GaugeMetricFamily("regatta_build_info", "The server's version.", labels=("version",))
        info.add_metric([__version__], 1)
        yield info
        for family in COUNTERS:
            counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
            for labels, value in _sum(snapshots, "counters", family.name, [0]).items():
                counter.add_metric(labels, value[0])
            yield counter
        for family in HISTOGRAMS:
            histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
            for labels, value in _sum(snapshots, "histograms", family.name, _empty_histogram()).items():
                histogram.add_metric(labels, _cumulative(value[:-1]), value[-1])
            yield histogram
        for family in GAUGES:
            gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
            for labels, value in _sum(alive, "gauges", family.name, [0]).items():
                gauge.add_metric(labels, value[0])
            yield gauge


def _empty_histogram() -> list[float]:
    """Counts by bucket, not cumulative, the last without an upper bound; then the sum of what was observed."""
    return [0] * (len(BUCKETS) + 1) + [0.0]


def _pairs(values: Mapping[_Labels, Any]) -> list[tuple[_Labels, Any]]:
    return list(values.items())


def _sum(snapshots: list[dict[str, Any]], section: str, name: str, zero: list[float]) -> dict[_Labels, list[float]]:
    total: defaultdict[_Labels, list[float]] = defaultdict(lambda: list(zero))
    for snapshot in snapshots:
        for labels, value in snapshot[section].get(name, ()):
            values = value if isinstance(value, list) else [value]
            total[tuple(labels)] = [a + b for a, b in zip(total[tuple(labels)], values, strict=True)]
    return total


def _cumulative(counts: list[float]) -> list[tuple[str, float]]:
    buckets, running = [], 0.0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, running))
    return buckets
