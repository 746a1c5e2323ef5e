"""What an operator of the registry sees: health, metrics and logs."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import OCI_INDEX, Repository, digest_of, index
from tests.server.live import LiveRegistry, serving, until


class TestHealth:
    def test_both_ports_tell(self, registry: LiveRegistry, client: httpx.Client) -> None:
        for get in (client.get, registry.debug):
            for path in ("/healthz", "/readyz"):
                response = get(path)
                assert (response.status_code, response.json()) == (200, {"status": "ok"})
                assert response.headers["cache-control"] == "no-store"

    def test_storage_that_cannot_be_written_makes_it_unready_until_it_can(self, serve: Serve) -> None:
        check = {"interval": "50ms", "threshold": 2, "timeout": "5s"}
        registry = serve({"health": {"storagedriver": check}})
        client = registry.client()
        repository = Repository(client, "app")
        manifest = repository.push_image("v1")
        away = registry.data.with_name("away")
        registry.data.rename(away)
        registry.data.write_text("no folder")  # permissions would not keep root from writing
        until(lambda: registry.debug("/readyz").status_code == 503, "the registry is unready")
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert answer.json()["storage"]
        assert client.get("/healthz").status_code == 200
        for response in (
            client.post("/v2/app/blobs/uploads/"),
            client.get("/v2/app/manifests/v1"),
            client.get("/v2/app/tags/list"),
            client.get(f"/v2/app/blobs/{digest_of(manifest)}"),
            repository.put_manifest(index(), "v2", OCI_INDEX),
        ):
            assert response.status_code in (404, 503)
            assert str(registry.data) not in response.text
        assert client.post("/v2/app/blobs/uploads/").headers["retry-after"]
        registry.data.unlink()
        away.rename(registry.data)
        until(lambda: registry.debug("/readyz").status_code == 200, "the registry is ready again")
        assert repository.get_manifest("v1").content == manifest
        assert "the storage check succeeds again" in registry.messages()

    def test_a_single_failure_is_none(self, serve: Serve) -> None:
        registry = serve({"health": {"storagedriver": {"interval": "50ms", "threshold": 1000}}})
        away = registry.data.with_name("away")
        registry.data.rename(away)
        registry.data.write_text("no folder")
        until(lambda: "3 time(s) in a row" in registry.messages(), "three checks have failed")
        assert registry.debug("/readyz").status_code == 200
        registry.data.unlink()
        away.rename(registry.data)

    def test_checks_leave_nothing_behind(self, serve: Serve) -> None:
        registry = serve({"health": {"storagedriver": {"interval": "10ms"}}})
        registry.stop()
        left = [path for path in registry.data.rglob(".*") if path.name != ".regatta"]
        assert left == []
        assert [path.name for path in registry.data.glob(".regatta/*/*") if path.parent.name != "runs"] == []

    def test_the_debug_port_serves_nothing_else(self, registry: LiveRegistry) -> None:
        for path in ("/", "/v2/", "/v2/_catalog", "/metrics/", "/debug/pprof/"):
            assert registry.debug(path).status_code == 404
        assert registry.fresh.post(f"{registry.debug_url}/healthz").status_code == 405


class TestMetrics:
    @pytest.fixture
    def measured(self, tmp_path: Path) -> Iterator[LiveRegistry]:
        """Two workers, whose counts must come together whichever of them is asked."""
        with serving(tmp_path, users={"user": "word"}, workers=2) as registry:
            yield registry

    def test_requests_are_counted_over_all_workers(self, measured: LiveRegistry) -> None:
        for _ in range(30):
            assert measured.fresh.get(f"{measured.url}/v2/", auth=("user", "word")).status_code == 200
        for _ in range(5):
            assert measured.fresh.get(f"{measured.url}/v2/", auth=("user", "wrong")).status_code == 401
        measured.fresh.request("BREW", f"{measured.url}/nothing")
        requests = "regatta_http_requests_total"
        self._await(measured, requests, 30, route="base", method="GET", code="200")
        self._await(measured, requests, 5, route="base", code="401")
        self._await(measured, requests, 1, route="unknown", method="OTHER", code="404")
        self._await(measured, "regatta_authentication_failures_total", 5, reason="password")
        duration = "regatta_http_request_duration_seconds"
        self._await(measured, f"{duration}_count", 35, route="base")
        self._await(measured, f"{duration}_bucket", 35, route="base", le="+Inf")
        assert 0 < measured.metric(f"{duration}_sum", route="base") < 35
        self._await(measured, "regatta_http_requests_in_flight", 0)

    def test_content_is_counted(self, measured: LiveRegistry) -> None:
        repository = Repository(measured.client("user", "word"), "team/app")
        blob = repository.push_blob(b"x" * 100_000)
        manifest = repository.push_image("v1", layers=[b"x" * 100_000])
        for _ in range(3):
            repository.get_manifest("v1")
            repository.get_blob(blob)
        repository.client.head(f"{repository.path}/manifests/v1")
        repository.client.delete(repository.start_upload())
        repository.client.put(repository.start_upload(), params={"digest": digest_of(b"other")}, content=b"x")
        operations = "regatta_repository_operations_total"
        self._await(measured, operations, 1, repository="team/app", action="push")
        self._await(measured, operations, 3, repository="team/app", action="pull")
        self._await(measured, "regatta_http_response_bytes_total", 300_000, route="blob")
        self._await(measured, "regatta_http_request_bytes_total", 200_003, route="upload")
        self._await(measured, "regatta_http_request_bytes_total", len(manifest), route="manifest")
        sessions = "regatta_upload_sessions_total"
        for event, count in (("started", 5), ("finished", 3), ("cancelled", 1), ("failed", 1)):
            self._await(measured, sessions, count, event=event)
        assert measured.metric("regatta_storage_operation_duration_seconds_count", operation="commit") == 3

    def test_work_in_progress_shows(self, measured: LiveRegistry) -> None:
        location = Repository(measured.client("user", "word"), "app").start_upload()
        with measured.connect() as connection:
            login = "Authorization: Basic dXNlcjp3b3Jk"
            connection.sendall(
                f"PATCH {location} HTTP/1.1\r\nHost: x\r\n{login}\r\nContent-Length: 9\r\n\r\n1234".encode()
            )
            self._await(measured, "regatta_http_requests_in_flight", 1)
            connection.sendall(b"56789")
            assert connection.recv(4096).startswith(b"HTTP/1.1 202")
        self._await(measured, "regatta_http_requests_in_flight", 0)

    def test_no_count_goes_back_when_a_worker_ends(self, measured: LiveRegistry) -> None:
        measured.crashes_expected = True
        for _ in range(20):
            measured.fresh.get(f"{measured.url}/healthz")
        self._await(measured, "regatta_http_requests_total", 20, route="healthz")
        workers = measured.worker_pids()
        measured.kill_worker(workers[0])
        until(lambda: len(measured.worker_pids()) == 2, "the worker is replaced")
        assert measured.metric("regatta_http_requests_total", route="healthz") >= 20

    def test_clients_cannot_grow_it_without_end(self, serve: Serve) -> None:
        """Repositories beyond a bound share one name, whose `_` keeps it from being one."""
        registry = serve()
        content = index()
        digest = digest_of(content)
        blob = registry.root / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
        blob.parent.mkdir(parents=True)
        blob.write_bytes(content)
        client = registry.client()
        for number in range(1010):
            manifests = registry.root / f"repositories/r{number}/_manifests"
            for link in (f"revisions/sha256/{digest[7:]}/link", "tags/v1/current/link"):
                (manifests / link).parent.mkdir(parents=True)
                (manifests / link).write_text(digest)
            assert client.get(f"/v2/r{number}/manifests/v1").status_code == 200
        for junk in ("a", "b", "c"):
            client.get(f"/v2/{junk}/manifests/none")
            client.get(f"/{junk}")
            client.request(junk.upper(), "/v2/")
        self._await(registry, "regatta_repository_operations_total", 1010)
        text = registry.debug("/metrics").text
        assert len(set(re.findall(r'repository="([^"]*)"', text))) == 1001
        assert registry.metric("regatta_repository_operations_total", repository="_other") == 10
        assert not re.search(r'method="[ABC]"|repository="[abc]"', text)

    def test_switched_off_there_are_none(self, serve: Serve) -> None:
        registry = serve({"http": {"debug": {"prometheus": {"enabled": False}}}})
        assert registry.debug("/metrics").status_code == 404

    def test_they_may_be_elsewhere(self, serve: Serve) -> None:
        registry = serve({"http": {"debug": {"prometheus": {"path": "/here"}}}})
        assert "regatta_build_info" in registry.debug("/here").text

    def _await(self, registry: LiveRegistry, name: str, value: float, **labels: str) -> None:
        """Workers publish what they have counted several times a second."""
        until(
            lambda: registry.metric(name, **labels) == value,
            f"{name} {labels} is {value}; it is {registry.metric(name, **labels)}",
            within=5,
        )


class TestAccessLog:
    def test_a_request_is_a_line_with_its_id(self, serve: Serve) -> None:
        registry = serve({"log": {"fields": {"cluster": "north"}}}, users={"user": "word"})
        client = registry.client("user", "word")
        client.headers["user-agent"] = "tests/1"
        repository = Repository(client, "app")
        blob = repository.push_blob(b"content")
        response = repository.get_blob(blob)
        identity = response.headers["x-request-id"]
        until(lambda: registry.entries(id=identity), "the line is written", within=5)
        [entry] = registry.entries(id=identity)
        assert entry["remote"].startswith("127.0.0.1:")
        assert 0 < entry["duration_ms"] < 60_000
        assert abs(time.time() - _seconds(entry["time"])) < 60
        expected = {
            "user": "user",
            "method": "GET",
            "path": f"/v2/app/blobs/{blob}",
            "status": 200,
            "bytes": 7,
            "received": 0,
            "agent": "tests/1",
            "cluster": "north",
        }
        assert expected.items() <= entry.items()

    def test_the_log_has_no_secrets(self, serve: Serve) -> None:
        registry = serve({"access": {"policies": _ANYONE_PULLS}}, users={"user": "pass-word"})
        token = registry.client("user", "pass-word").get("/auth/token").json()["token"]
        for header in (
            f"Bearer {token}",
            "Bearer wrong.to.ken",
            "Basic dXNlcjpwYXNzLXdvcmQ=",
            "Basic dXNlcjp3cm9uZw==",
        ):
            registry.fresh.get(f"{registry.url}/v2/", headers={"authorization": header})
        registry.fresh.get(f"{registry.url}/v2/", params={"token": token, "account": "user"})
        registry.stop()
        said = registry.log.read_text()
        assert len(registry.entries(path="/v2/")) == 5
        for secret in ("pass-word", token, token.split(".")[2], "wrong.to.ken", "dXNlcjp", "$2b$"):
            assert secret not in said

    @pytest.mark.parametrize("formatter", ["json", "text"])
    def test_a_client_cannot_write_lines_of_its_own(self, serve: Serve, formatter: str) -> None:
        registry = serve({"log": {"formatter": formatter}})
        client = registry.client()
        client.get("/v2/%0a%0dforged%1b[2J%e2%80%a8/tags/list", headers={"user-agent": "x\tforged"})
        client.get("/last")
        registry.stop()
        lines = [line for line in registry.log.read_text().split("\n") if "GET" in line]
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)

    def test_switched_off_there_is_none(self, serve: Serve) -> None:
        registry = serve({"log": {"accesslog": {"disabled": True}}})
        registry.client().get("/v2/")
        registry.stop()
        assert registry.entries(path="/v2/") == []

    def test_lines_of_many_workers_do_not_mix(self, serve: Serve) -> None:
        registry = serve(workers=3)
        for _ in range(20):
            with registry.client() as client:
                for _ in range(10):
                    client.get("/v2/")
        registry.stop()
        assert len(registry.entries(path="/v2/", status=200)) == 200
        for line in registry.log.read_text().splitlines():
            json.loads(line)


_ANYONE_PULLS = [
    {"subjects": ["anonymous"], "repositories": ["**"], "actions": ["pull"]},
    {"subjects": ["authenticated"], "repositories": ["**"], "role": "admin"},
]


def _seconds(timestamp: str) -> float:
    return time.mktime(time.strptime(timestamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
