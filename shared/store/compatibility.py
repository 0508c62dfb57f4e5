"""Which schemas this code runs on.

Code needs the schema to be at least at its own revision. A newer schema is fine unless it excludes the code.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Boolean, CheckConstraint, Column, Connection, Table, Text, column, select, table, text, true

from shared.errors import PermanentError, RetryableError
from shared.store.tables import Base

REVISION = "0012"
"""The newest migration that this code knows."""

_NEEDED = f"{REVISION} is needed; run `python -m migrations upgrade`."

schema_compatibility = Table(
    "schema_compatibility",
    Base.metadata,
    Column("is_only_row", Boolean, CheckConstraint("is_only_row", name="is_only_row"), primary_key=True,
           server_default=true()),
    Column("oldest_code", Text, nullable=False),
)  # fmt: skip
"""The oldest code, by its `REVISION`, that may run on the schema. Contract migrations raise it."""

_alembic_version = table("alembic_version", column("version_num"))


class SchemaOutdated(RetryableError):
    """The database's schema does not fit this version; /health/ready has the details."""

    code = "schema_outdated"


class CodeOutdated(PermanentError):
    """This version is older than the database's schema allows; upgrade this process."""

    code = "code_outdated"


class Fit(StrEnum):
    """Whether this code can run on a schema."""

    COMPATIBLE = "compatible"
    MISSING = "missing"
    TOO_OLD = "too_old"
    TOO_NEW = "too_new"


class Schema(NamedTuple):
    """State of a database's schema."""

    revision: str | None
    """Newest migration that was applied; `None` if there is none."""

    oldest_code: str | None
    """Oldest code that may run on it."""

    @property
    def fit(self) -> Fit:
        """Compare the schema with this code."""
        if self.revision is None or self.oldest_code is None:
            return Fit.MISSING
        if self.revision < REVISION:
            return Fit.TOO_OLD
        return Fit.TOO_NEW if self.oldest_code > REVISION else Fit.COMPATIBLE

    @property
    def error(self) -> SchemaOutdated | CodeOutdated | None:
        """Return the error to raise; `None` if the schema is compatible."""
        match self.fit:
            case Fit.COMPATIBLE:
                return None
            case Fit.MISSING:
                return SchemaOutdated(
                    f"The database's schema is missing, {REVISION} is needed; run `python -m migrations upgrade`."
                )
            case Fit.TOO_OLD:
                found = f"The database's schema is {self.revision}"
                return SchemaOutdated(f"{found}, {_NEEDED}")
            case Fit.TOO_NEW:
                mine = f"This version (schema {REVISION})"
                return CodeOutdated(
                    f"{mine} is older than the schema allows ({self.oldest_code}); upgrade this process."
                )


def read_schema(connection: Connection) -> Schema:
    """Read the state of the database's schema."""
    if connection.scalar(
        text("SELECT num_nulls(to_regclass('alembic_version'), to_regclass('schema_compatibility')) > 0")
    ):
        return Schema(None, None)
    # One statement: a migration may commit between two.
    both = select(_alembic_version.c.version_num, schema_compatibility.c.oldest_code).join_from(
        _alembic_version, schema_compatibility, true()
    )
    row = connection.execute(both).one_or_none()
    return Schema(*row) if row else Schema(None, None)
