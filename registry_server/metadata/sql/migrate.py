"""Brings the schema of a database up to date, one process at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from alembic import command
from alembic.config import Config as Alembic
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError

from registry_server.config import SQL, ConfigError
from registry_server.metadata.sql.database import begin_immediate, connect_arguments, describe, locate, prepare_sqlite

logger = logging.getLogger(__name__)

WAIT: Final = 300
"""Seconds that another server may take for its migration before this one gives up."""
_LOCK: Final = 0x7265676174746131
"""What processes agree on as the name of the lock: `regatta1`."""


def migrate(settings: SQL, *, only_check: bool = False) -> None:
    """Bring the schema up to date, or find out that it is. Raises ConfigError."""
    url = locate(settings)
    backend = url.get_backend_name()
    engine = create_engine(
        url, connect_args=connect_arguments(backend, settings.timeout, waiting=WAIT), hide_parameters=True
    )
    if backend == "sqlite":
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_immediate)
    try:
        with engine.connect() as connection, _locked(connection, backend):
            _migrate(connection, describe(url), only_check=only_check)
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = " ".join(str(cause).split())
        raise ConfigError(f"metadata.sql: {describe(url)}: {reason}; {_advice(error)}") from None
    finally:
        engine.dispose()


def _migrate(connection: Connection, name: str, *, only_check: bool) -> None:
    alembic = Alembic()
    alembic.set_main_option("script_location", "registry_server.metadata.sql:migrations")
    alembic.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(alembic)
    current = MigrationContext.configure(connection).get_current_revision()
    newest = scripts.get_current_head()
    if current == newest:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"metadata.sql: {name}: its schema {current} is newer than this server, which knows up to {newest}; "
            "run the server that made it, or a later one"
        )
    if only_check:
        raise ConfigError(
            f"metadata.sql: {name}: its schema is {current or 'not there yet'}, this server needs {newest}; "
            "run registry-server metadata migrate CONFIG, or remove metadata.sql.migrate"
        )
    command.upgrade(alembic, "head")
    logger.info("the schema of %s is %s now", name, newest)


@contextmanager
def _locked(connection: Connection, backend: str) -> Iterator[None]:
    """Keep other processes out. Whichever way this one ends, the lock ends with its transaction or connection."""
    if backend in ("mysql", "mariadb"):
        got: Any = connection.execute(text("SELECT GET_LOCK('regatta-migration', :wait)"), {"wait": WAIT}).scalar()
        if got != 1:
            raise ConfigError("metadata.sql: another server has been migrating the database for long; look after it")
        yield
        connection.commit()
        return
    with connection.begin():  # which is SQLite's lock: one transaction that writes at a time
        if backend == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield


def _advice(error: Exception) -> str:
    if isinstance(error, ProgrammingError) or "already exists" in str(error):
        return "give Regatta a database of its own, empty at first, and a user who may make tables"
    return "start the database, or correct metadata.sql"
