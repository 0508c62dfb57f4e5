"""Watches whether the database answers, and whether its schema fits this code."""

from __future__ import annotations

from shared.errors import RetryableError, explain
from shared.observe.health import Health
from shared.store.compatibility import REVISION, read_schema
from shared.store.database import Database

CONDITIONS = ("database", "schema")
"""Names of the conditions of a process that has a database."""


PATIENCE_S = 30.0
"""Seconds that an answer may be late before the database counts as away."""


def watch_database(database: Database, health: Health, *, every_s: float) -> None:
    """Record in the health whether the database answers and whether its schema fits.

    Args:
        database: The database.
        health: The health of this process.
        every_s: Seconds until the next call.

    Raises:
        RetryableError: The database does not answer, or its schema is missing or older than this code.
        CodeOutdated: This code is older than the schema allows.
    """
    try:
        with database.begin() as connection:
            schema = read_schema(connection)
    except RetryableError as error:
        health.miss("database", explain(error))
        health.miss("schema", "Unknown while the database does not answer.")
        raise
    health.meet("database", "The database answers.", valid_s=every_s + PATIENCE_S)
    if schema.error is not None:
        health.miss("schema", str(schema.error))
        raise schema.error
    health.meet("schema", f"The schema is {schema.revision}; this version needs {REVISION} or newer.")
