"""The driver that a configuration names. What only a database needs is loaded for one alone."""

from registry_server.config import ConfigError, Metadata
from registry_server.metadata.contract import Metadata as Driver
from registry_server.metadata.layout import LayoutMetadata, Understand
from registry_server.storage.contract import Storage


def prepare(settings: Metadata) -> None:
    """Find out whether the driver can be opened, and bring its schema up to date unless told otherwise.

    Raises ConfigError.
    """
    if settings.sql is None:
        return
    try:
        from registry_server.metadata.sql.migrate import migrate
    except ImportError as error:
        raise ConfigError(f"metadata.sql: {error.name} is not installed; install regatta[sql]") from None
    migrate(settings.sql, only_check=settings.sql.migrate == "manual")


def open_metadata(settings: Metadata, storage: Storage, understand: Understand) -> Driver:
    """The driver, for one process. Nothing is connected yet."""
    if settings.sql is None:
        return LayoutMetadata(storage, understand)
    from registry_server.metadata.sql.database import Database
    from registry_server.metadata.sql.driver import SqlMetadata

    return SqlMetadata(Database(settings.sql))
