"""How a database is spoken to: connections, threads, what is tried again, and what its errors mean.

A worker has a few threads that read and a few that write, each with a connection of its own. Reads are single
statements that commit by themselves. SQLite has one thread that writes, for it can have one writer, and is read without
a thread: it answers within microseconds from the page cache.

    DatabaseError (a StorageError: a request that meets it ends in 503)
    └── StorageFull, where the disk of the database is full
"""

import asyncio
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from registry_server.config import SQL, ConfigError, database_url
from registry_server.storage.contract import StorageError, StorageFull

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 8
"""Times a transaction is tried that others are in the way of; with its pauses about half a second."""
PAUSE: Final = 0.005
"""Seconds before the second attempt, at most; each further pause is up to twice as long."""
CONNECT_WITHIN: Final = 5
"""Seconds in which a server must answer a new connection."""
PREPARED_AFTER: Final = 2
"""Times a statement is executed before PostgreSQL keeps its plan."""

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_IN_THE_WAY: Final = {
    "40001",  # PostgreSQL: could not serialize access
    "40P01",  # PostgreSQL: deadlock
    1205,  # MySQL: waited too long for a lock
    1213,  # MySQL: deadlock
    1020,  # MariaDB: a row has changed since it was read
}
_FULL: Final = {
    "53100",  # PostgreSQL: disk full
    1021,  # MySQL: disk full
    1114,  # MySQL: table full
    sqlite3.SQLITE_FULL,
}


class DatabaseError(StorageError):
    """The database can't do its work now."""


class Overtaken(Exception):
    """Another transaction took away what this one has found already, which therefore has to begin anew."""


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that is compiled once. Its parameters are named."""

    text: str
    names: tuple[str, ...] | None
    """The parameters in the order of the text, where the driver takes them by position."""
    constants: Mapping[str, Any]
    """Parameters that the statement brings itself."""

    def arguments(self, parameters: Mapping[str, Any]) -> Any:
        if self.constants:
            parameters = {**self.constants, **parameters}
        return parameters if self.names is None else [parameters[name] for name in self.names]


def locate(settings: SQL) -> URL:
    """Where the database is. Raises ConfigError."""
    if settings.url is not None:
        return _parse(settings.url.get_secret_value(), "metadata.sql.url")
    assert settings.urlfile is not None  # noqa: S101  (the settings were checked)
    return _read(settings.urlfile)


def _read(path: Path) -> URL:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise ConfigError(f"metadata.sql.urlfile: {path}: cannot be read: {reason}") from None
    return _parse(text, f"metadata.sql.urlfile: {path}")


def _parse(text: str, where: str) -> URL:
    try:
        url = make_url(database_url(text))
        return url.set(drivername=_DRIVERS[url.drivername])
    except ArgumentError:
        reason = "is no URL of a database; write special characters of a password as %XX"
    except ValueError as error:
        reason = str(error)
    raise ConfigError(f"{where}: {reason}") from None


def describe(url: URL) -> str:
    """The database as people call it, without its password."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite, {url.database}"
    name = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}[url.get_backend_name()]
    host = url.host or "a local socket"
    return f"{name}, {url.database} at {host}{f':{url.port}' if url.port else ''}"


class Database:
    """One database, as one process uses it."""

    def __init__(self, settings: SQL) -> None:
        url = locate(settings)
        self.name = describe(url)
        self._timeout = settings.timeout.total_seconds()
        self._on_loop = url.get_backend_name() == "sqlite"
        threads = settings.poolsize // 2
        self._reading = _Lane("read", threads, _engine(settings, url, writing=False))
        self._writing = _Lane("write", 1 if self._on_loop else threads, _engine(settings, url, writing=True))
        self.dialect = self._reading.engine.dialect

    def query(self, statement: Executable) -> Query:
        """Make a statement ready for `fetch`."""
        compiled = statement.compile(dialect=self.dialect)  # type: ignore[attr-defined]  # every statement has it
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        return Query(str(compiled), tuple(compiled.positiontup) if compiled.positional else None, constants)

    async def fetch(self, query: Query, parameters: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """All rows of a query."""
        if self._on_loop:
            return self._reading.fetch(query, parameters)
        return await self._in_time(self._reading.threads, self._reading.fetch, query, parameters)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Single statements, each of which sees what is committed."""
        if self._on_loop:
            return self._reading.read(work)
        return await self._in_time(self._reading.threads, self._reading.read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """A transaction, committed when this returns. `work` may be called several times, and must not mind."""
        return await self._in_time(self._writing.threads, self._writing.write, work)

    async def close(self) -> None:
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Let go of all connections."""
        for lane in (self._reading, self._writing):
            lane.close()

    async def _in_time(self, threads: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
        """A thread that waits for a server which is gone is left to wait, and who asked is told."""
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(threads, work, *args)
        except TimeoutError as error:
            raise DatabaseError(f"the database did not answer within {self._timeout:g} s ({self.name})") from error


class _Lane:
    """Threads with a connection each."""

    def __init__(self, name: str, threads: int, engine: Engine) -> None:
        self.engine = engine
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=f"sql-{name}")
        self._local = threading.local()
        self._connections: list[Connection] = []

    def fetch(self, query: Query, parameters: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Through the driver itself: SQLAlchemy's own way costs several times what SQLite takes to answer."""

        def work(connection: Connection) -> Sequence[tuple[Any, ...]]:
            raw = connection.connection.dbapi_connection
            assert raw is not None  # noqa: S101  (it was connected just now)
            cursor = raw.cursor()
            try:
                cursor.execute(query.text, query.arguments(parameters))
                return cursor.fetchall()
            except self.engine.dialect.loaded_dbapi.Error as error:
                if self.engine.dialect.is_disconnect(error, connection.connection, cursor):
                    connection.invalidate(error)
                raise
            finally:
                with suppress(self.engine.dialect.loaded_dbapi.Error):
                    cursor.close()

        return self.read(work)

    def read(self, work: Callable[[Connection], T]) -> T:
        """A connection that was cut off is replaced once: it may have been idle when the server restarted."""
        for last in (False, True):
            connection: Connection | None = None
            try:
                connection = self._held()
                return work(connection)
            except (SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error) as error:
                lost = connection is None or connection.invalidated or connection.closed
                if lost:
                    self._drop(connection)
                if last or not lost or connection is None:
                    raise _explain(error) from error
        raise AssertionError

    def write(self, work: Callable[[Connection], T]) -> T:
        """Try again what failed for others' sake, or for an idle connection's that was cut off before the commit."""
        for attempt in range(1, ATTEMPTS + 1):
            committing = False
            try:
                with self.engine.connect() as connection, connection.begin():
                    result = work(connection)
                    committing = True
            except Overtaken as error:
                if attempt == ATTEMPTS:
                    raise DatabaseError("others take away all the time what is to be linked") from error
            except SQLAlchemyError as error:
                lost = isinstance(error, DBAPIError) and error.connection_invalidated
                again = (lost and not committing and attempt == 1) or _in_the_way(error)
                if not again or attempt == ATTEMPTS:
                    raise _explain(error) from error
            else:
                return result
            time.sleep(random.uniform(0, PAUSE * 2**attempt))  # noqa: S311  (so that two don't meet again)
        raise AssertionError

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        for connection in self._connections:
            with suppress(SQLAlchemyError):
                connection.close()
        self.engine.dispose()

    def _held(self) -> Connection:
        """This thread's connection."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self.engine.connect()
            self._connections.append(connection)
        return connection

    def _drop(self, connection: Connection | None) -> None:
        self._local.connection = None
        if connection is not None:
            self._connections.remove(connection)
            with suppress(SQLAlchemyError):
                connection.close()


def _engine(settings: SQL, url: URL, *, writing: bool) -> Engine:
    backend = url.get_backend_name()
    options: dict[str, Any] = {"pool_size": settings.poolsize, "max_overflow": 0, "hide_parameters": True}
    if not writing:
        options |= {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    elif backend != "sqlite":
        # So that a row that others have just committed can be seen after they were in the way of making it.
        options["isolation_level"] = "READ COMMITTED"
    try:
        engine = create_engine(url, connect_args=connect_arguments(backend, settings.timeout), **options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"metadata.sql: {error}") from None
    if backend == "sqlite":
        event.listen(engine, "connect", prepare_sqlite)
        if writing:
            event.listen(engine, "begin", begin_immediate)
    elif backend == "postgresql":
        event.listen(engine, "connect", _prepare_postgresql)
    if settings.urlfile is not None:
        event.listen(engine, "do_connect", _follow(settings.urlfile))
    return engine


def connect_arguments(backend: str, timeout: timedelta, *, waiting: float = 0) -> dict[str, Any]:
    """No connection waits for ever: not for SQLite's writer, and not for a host that has vanished.

    `waiting` are seconds that a statement may take longer than others.
    """
    seconds = max(1, round(timeout.total_seconds() + waiting))
    if backend == "sqlite":
        return {"timeout": seconds, "check_same_thread": False, "cached_statements": 256}
    if backend == "postgresql":
        return {
            "connect_timeout": CONNECT_WITHIN,
            "prepare_threshold": None,
            "application_name": "regatta",
            "keepalives_idle": seconds,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": seconds * 1000,
        }
    return {"connect_timeout": CONNECT_WITHIN, "read_timeout": seconds, "write_timeout": seconds}


def prepare_sqlite(connection: DBAPIConnection, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL: a commit is on disk when it returns, in WAL as well.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}", ())
    cursor.close()


def begin_immediate(connection: Connection) -> None:
    """A transaction that reads first and writes then would fail where another one has written in between."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_postgresql(connection: DBAPIConnection, _record: Any) -> None:
    """Let plans be kept, unless a pooler is in between that may put the next statement on another connection.

    A pooler answers for many servers, so it tells clients a process of its own making.
    """
    psycopg: Any = connection
    (pid,) = psycopg.execute("SELECT pg_backend_pid()").fetchone()
    psycopg.rollback()
    if pid == psycopg.info.backend_pid:
        psycopg.prepare_threshold = PREPARED_AFTER


def _follow(urlfile: Path) -> Callable[..., None]:
    """A password that was changed counts for the next connection."""

    def connect(dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> None:
        try:
            url = _read(urlfile)
        except ConfigError as error:
            logger.warning("%s; going on with what it said before", error)
            return
        args[:], current = dialect.create_connect_args(url)
        parameters.update(current)

    return connect


def _code(error: BaseException) -> Any:
    """What the server calls the error: PostgreSQL's state, or the number of MySQL and SQLite."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    known = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorcode", None)
    arguments = getattr(cause, "args", ())
    return known or (arguments[0] if arguments else None)


def _in_the_way(error: SQLAlchemyError) -> bool:
    """A deadlock, or what another transaction has made or taken away since it was looked for."""
    return isinstance(error, IntegrityError) or _code(error) in _IN_THE_WAY


def _explain(error: Exception) -> StorageError:
    if isinstance(error, PoolTimeoutError):
        return DatabaseError("all connections to the database are in use")
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return (StorageFull if _code(error) in _FULL else DatabaseError)(f"the database: {text}")
