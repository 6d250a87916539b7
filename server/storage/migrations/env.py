"""The environment of alembic: the missing migrations, in the transaction that ``Database.migrate`` opened."""

from alembic import context

from server.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
