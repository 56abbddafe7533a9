"""Alembic's environment: it migrates over the connection that `within_ml.database.base.migrate` hands in."""

from alembic import context

from within_ml.database import Base
from within_ml.database.base import VERSION_TABLE
from within_ml.errors import DatabaseError

connection = context.config.attributes.get("connection")
if connection is None:
    raise DatabaseError("Migrations need a connection; call within_ml.database.base.migrate(url).")

context.configure(connection=connection, target_metadata=Base.metadata, version_table=VERSION_TABLE, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
