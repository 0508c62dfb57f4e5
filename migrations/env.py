"""Alembic's environment: one transaction per migration, on the session that `migrations.session` opens."""

from __future__ import annotations

from alembic import context

from migrations.session import migrating

with migrating(context.config.attributes["database_url"]) as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
