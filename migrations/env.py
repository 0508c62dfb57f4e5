"""How Alembic runs here: one transaction a migration, never two migrations at a time, never a long lock."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from shared.store.database import Database
from shared.store.tables import Base

_LOCK = 0x7472_6D67
"""Advisory lock: whoever comes second waits, and then finds nothing to do."""


def _run() -> None:
    # A migration of much data takes as long as it takes.
    database = Database(context.config.attributes["database_url"], statement_timeout_s=0)
    with database.begin() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        # A migration that waits for a lock makes every later statement wait behind it: better to fail and try again.
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()
    database.close()


_run()
