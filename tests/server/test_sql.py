"""What a database brings with it: restarts and hangs, several replicas, migrations, poolers, URLs with passwords."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from registry_server.config import SQL, ConfigError
from registry_server.metadata.sql.database import locate
from registry_server.metadata.sql.migrate import migrate
from registry_server.metadata.sql.schema import metadata
from tests.fixtures.databases import PASSWORD, PgBouncer, PostgreSQL
from tests.server.conftest import METADATA, Serve, metadata_settings
from tests.server.content import OCI_INDEX, Repository, digest_of, image, index
from tests.server.live import LiveRegistry, until
from tests.server.test_durability import PUSHERS, kill_at_random

DATABASES = [driver for driver in METADATA if driver != "layout"]


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> SQL:
    """A new database of each kind."""
    return SQL.model_validate(metadata_settings(request.param, request, tmp_path)["metadata"]["sql"])


class TestSchema:
    def test_the_migrations_make_the_tables_that_the_queries_are_written_for(self, settings: SQL) -> None:
        migrate(settings)
        with _connected(settings) as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []

    def test_migrating_again_changes_nothing(self, settings: SQL) -> None:
        for _ in range(2):
            migrate(settings)
        migrate(settings, only_check=True)

    def test_several_servers_may_start_at_once(self, settings: SQL) -> None:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(migrate, settings) for _ in range(4)]:
                done.result()
        migrate(settings, only_check=True)

    def test_a_schema_of_a_later_version_is_refused(self, settings: SQL) -> None:
        migrate(settings)
        with _connected(settings) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            connection.commit()
        with pytest.raises(ConfigError, match="schema 9999 is newer than this server, which knows up to 0001"):
            migrate(settings)

    def test_where_it_is_left_to_a_person_the_server_says_what_to_run(self, settings: SQL) -> None:
        with pytest.raises(ConfigError, match="run registry-server metadata migrate"):
            migrate(settings, only_check=True)

    def test_tables_of_another_application_are_left_alone(self, settings: SQL) -> None:
        with _connected(settings) as connection:
            connection.execute(text("CREATE TABLE tags (mine INTEGER)"))
            connection.commit()
        with pytest.raises(ConfigError, match="give Regatta a database of its own, empty at first"):
            migrate(settings)


class TestSecrets:
    def test_a_wrong_password_is_told_without_it(self, postgresql: PostgreSQL, tmp_path: Path) -> None:
        urlfile = tmp_path / "url"
        urlfile.write_text(postgresql.database().replace(PASSWORD, "secret%40wrong") + "\n")
        with pytest.raises(ConfigError, match="password authentication failed") as raised:
            migrate(SQL(urlfile=urlfile))
        assert "secret" not in str(raised.value)
        assert "start the database, or correct metadata.sql" in str(raised.value)

    @pytest.mark.parametrize("url", ["hunter2", "postgresql://u:hunter2@h:99999/x", "oracle://u:hunter2@h/x"])
    def test_a_file_without_a_url_is_told_without_what_it_holds(self, tmp_path: Path, url: str) -> None:
        urlfile = tmp_path / "url"
        urlfile.write_text(url)
        with pytest.raises(ConfigError, match=r"metadata\.sql\.urlfile: .*/url: must ") as raised:
            locate(SQL(urlfile=urlfile))
        assert "hunter2" not in str(raised.value)

    def test_a_changed_password_counts_without_a_restart(
        self, serve: Serve, own_postgresql: PostgreSQL, tmp_path: Path
    ) -> None:
        urlfile = tmp_path / "url"
        urlfile.write_text(url := own_postgresql.database())
        registry = serve({"metadata": {"sql": {"urlfile": str(urlfile)}}})
        manifest = Repository(registry.client(), "app").push_image("v1")
        own_postgresql.execute("ALTER USER regatta PASSWORD 'another'")
        urlfile.write_text(url.replace(PASSWORD, "another"))
        own_postgresql.stop()
        own_postgresql.start(password="another")
        _until_served(registry, "app", "v1", manifest)
        assert PASSWORD not in registry.log.read_text()


class TestOutages:
    def test_a_restart_in_the_middle_of_traffic_ends_in_503_and_loses_nothing(
        self, serve: Serve, own_postgresql: PostgreSQL
    ) -> None:
        registry = serve({"metadata": {"sql": {"url": own_postgresql.database()}}}, workers=2)
        stop = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(_push_until, registry, f"app-{number}", stop) for number in range(4)]
            for _ in range(2):
                until(lambda: registry.metric("regatta_repository_operations_total", action="push") > 8, "traffic")
                own_postgresql.stop()
                until(lambda: registry.client().get("/v2/app/manifests/v1").status_code == 503, "it is noticed")
                own_postgresql.start()
                until(lambda: registry.client().get("/v2/app/manifests/v1").status_code == 404, "it is back")
            stop.set()
            outcomes = [client.result() for client in clients]
        for number, (acknowledged, statuses) in enumerate(outcomes):
            assert statuses <= {201, 202, 503}
            assert acknowledged
            for tag, manifest in acknowledged.items():
                assert registry.client().get(f"/v2/app-{number}/manifests/{tag}").content == manifest

    def test_while_it_is_away_clients_are_told_when_to_come_back(
        self, serve: Serve, own_postgresql: PostgreSQL
    ) -> None:
        check = {"storagedriver": {"interval": "100ms", "threshold": 1}}
        url = own_postgresql.database()
        registry = serve({"metadata": {"sql": {"url": url}}, "health": check})
        repository = Repository(registry.client(), "app")
        manifest = repository.push_image("v1", layers=[b"layer"])
        own_postgresql.stop()
        for path in ("manifests/v1", "tags/list", f"blobs/{digest_of(b'layer')}", f"referrers/{digest_of(b'')}"):
            _assert_away(repository.client.get(f"/v2/app/{path}"))
        _assert_away(repository.client.get("/v2/_catalog"))
        _assert_away(repository.put_manifest(manifest, "v2"))
        _assert_away(repository.client.delete("/v2/app/manifests/v1"))
        until(lambda: registry.debug("/readyz").status_code == 503, "it is not ready")
        assert registry.debug("/healthz").status_code == 200
        own_postgresql.start()
        until(lambda: registry.debug("/readyz").status_code == 200, "it is ready again")
        assert repository.get_manifest("v1").content == manifest

    def test_one_that_hangs_is_as_good_as_away(self, serve: Serve, own_postgresql: PostgreSQL) -> None:
        url = own_postgresql.database()
        registry = serve({"metadata": {"sql": {"url": url, "timeout": "5s", "poolsize": 2}}})
        repository = Repository(registry.client(), "app")
        manifest = repository.push_image("v1")
        own_postgresql.freeze()
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(repository.get_manifest, "v1") for _ in range(3)]
            asked += [pool.submit(repository.put_manifest, manifest, "v2") for _ in range(3)]
            for answer in asked:
                _assert_away(answer.result())
        own_postgresql.thaw()
        _until_served(registry, "app", "v1", manifest)

    def test_a_server_that_can_not_reach_it_does_not_start(self, serve: Serve, own_postgresql: PostgreSQL) -> None:
        url = own_postgresql.database()
        own_postgresql.stop()
        registry = serve({"metadata": {"sql": {"url": url}}}, start=False).start(ready=False)
        assert registry.process.wait() == 2
        assert "start the database, or correct metadata.sql" in registry.log.read_text()
        assert PASSWORD not in registry.log.read_text()


class TestReplicas:
    def test_clients_that_alternate_never_see_an_error_or_a_stale_tag(
        self, serve: Serve, postgresql: PostgreSQL, tmp_path: Path
    ) -> None:
        shared = {
            "metadata": {"sql": {"url": postgresql.database()}},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "shared")}},
        }
        replicas = [serve(shared), serve(shared)]

        def work(number: int) -> None:
            choose = random.Random(number)  # noqa: S311, wanted: the same each time
            repositories = [Repository(replica.client(), f"app-{number % 2}") for replica in replicas]
            for turn in range(15):
                layer = f"{number}-{turn}".encode()
                location = choose.choice(repositories).start_upload()
                query = {"digest": digest_of(layer)}
                put = choose.choice(repositories).client.put(location, params=query, content=layer)
                assert put.status_code == 201, put.text
                choose.choice(repositories).push_blob(b"{}")
                manifest = image(b"{}", [layer])
                choose.choice(repositories).push_manifest(manifest, f"tag-{number}")
                one = choose.choice(repositories)
                assert one.get_manifest(f"tag-{number}").content == manifest
                assert f"tag-{number}" in one.tags()
                if choose.random() < 0.3:
                    gone = choose.choice(repositories).client.delete(f"{one.path}/manifests/tag-{number}")
                    assert gone.status_code == 202
                    assert choose.choice(repositories).get_manifest(f"tag-{number}").status_code == 404

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, number) for number in range(4)]:
                done.result()


@pytest.mark.parametrize("driver", DATABASES)
def test_kill_9_loses_nothing_acknowledged(
    driver: str, request: pytest.FixtureRequest, serve: Serve, tmp_path: Path
) -> None:
    kill_at_random(serve(metadata_settings(driver, request, tmp_path), workers=2), rounds=5, pushers=PUSHERS)


def test_no_link_file_is_written(serve: Serve, tmp_path: Path) -> None:
    registry = serve({"metadata": {"sql": {"url": f"sqlite:///{tmp_path}/metadata.db"}}})
    repository = Repository(registry.client(), "app")
    repository.push_image("v1", layers=[b"layer"])
    repository.push_manifest(index(), "v2", OCI_INDEX)
    repository.client.delete("/v2/app/manifests/v1")
    assert list(registry.root.glob("repositories/**/link")) == []


def test_a_pooler_in_transaction_mode_is_fine(serve: Serve, pgbouncer: PgBouncer) -> None:
    """It gives each transaction whichever connection is free, where a plan that another one keeps is not found."""
    registry = serve({"metadata": {"sql": {"url": pgbouncer.database()}}}, workers=2)

    def push(number: int) -> None:
        repository = Repository(registry.client(), f"app-{number}")
        for turn in range(10):
            manifest = repository.push_image(f"v{turn}")
            assert repository.get_manifest(f"v{turn}").content == manifest
        assert len(repository.tags()) == 10

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(push, number) for number in range(8)]:
            done.result()


@contextmanager
def _connected(settings: SQL) -> Iterator[Connection]:
    engine = create_engine(locate(settings))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _assert_away(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["errors"][0]["code"] == "UNAVAILABLE"


def _until_served(registry: LiveRegistry, name: str, tag: str, manifest: bytes) -> None:
    def served() -> bool:
        response = registry.client().get(f"/v2/{name}/manifests/{tag}")
        assert response.status_code in (200, 503)
        return response.content == manifest

    until(served, f"{name}:{tag} is served")


def _push_until(registry: LiveRegistry, name: str, stop: threading.Event) -> tuple[dict[str, bytes], set[int]]:
    """Pushes tags until told to stop; returns those that were acknowledged, and all statuses met."""
    acknowledged: dict[str, bytes] = {}
    statuses: set[int] = set()
    with registry.client() as client:
        repository = Repository(client, name)
        for turn in range(100_000):
            if stop.is_set():
                break
            manifest = index(annotations={"turn": f"{name}-{turn}"})
            answer = repository.put_manifest(manifest, f"v{turn}", OCI_INDEX)
            statuses.add(answer.status_code)
            if answer.status_code == 201:
                acknowledged[f"v{turn}"] = manifest
    return acknowledged, statuses
