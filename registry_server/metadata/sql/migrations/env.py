"""Alembic's entry: it loads this file to run the revisions, in the transaction of the connection that it is handed."""

from alembic import context

from registry_server.metadata.sql.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
