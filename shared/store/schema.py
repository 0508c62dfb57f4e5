"""Which revision of the schema this code is written for."""

from __future__ import annotations

from sqlalchemy import Connection, text

from shared.errors import RetryableError

REVISION = "0002"
"""The newest migration; a test holds it against `migrations/`."""


class SchemaOutdated(RetryableError):
    """The database's schema is not the one that this code needs; run `make migrate`."""

    code = "schema_outdated"


def current_revision(connection: Connection) -> str | None:
    """Read the database's revision; `None` if it was never migrated."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def check_schema(connection: Connection) -> None:
    """Check that the database has this code's schema.

    Raises:
        SchemaOutdated: It has another one, or none.
    """
    found = current_revision(connection)
    if found != REVISION:
        raise SchemaOutdated(f"The database's schema is {found or 'missing'}, not {REVISION}; run `make migrate`.")
