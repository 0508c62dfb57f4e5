"""The database's schema, step by step: `python -m migrations upgrade | downgrade REVISION | check`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from shared.errors import PermanentError
from shared.store.database import Database
from shared.store.schema import current_revision


class CannotMigrate(PermanentError):
    """The database cannot be brought to that revision."""

    code = "cannot_migrate"


def config(database_url: str) -> Config:
    """Make Alembic's configuration for a database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.set_main_option("path_separator", "os")
    made.attributes["database_url"] = database_url
    return made


def upgrade(database_url: str, revision: str = "head") -> str:
    """Bring a database to a revision. Safe to run from several processes at once: one waits for the other.

    Returns:
        The revision that it has now and what it had before, in words.

    Raises:
        CannotMigrate: There is no such revision, or the database is at one that this version does not know.
        DatabaseUnavailable: The database does not answer.
    """
    before = read_revision(database_url)
    try:
        command.upgrade(config(database_url), revision)
    except CommandError as error:
        raise CannotMigrate from error
    after = read_revision(database_url)
    return f"{after} (nothing to do)" if after == before else f"{after} (it was {before or 'missing'})"


def read_revision(database_url: str) -> str | None:
    """Read a database's revision; `None` if it was never migrated.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    with closing(Database(database_url)) as database, database.begin() as connection:
        return current_revision(connection)


def downgrade(database_url: str, revision: str) -> None:
    """Take a database back to a revision; `base` drops everything.

    Raises:
        CannotMigrate, DatabaseUnavailable: As for `upgrade`.
    """
    try:
        command.downgrade(config(database_url), revision)
    except CommandError as error:
        raise CannotMigrate from error


def check(database_url: str) -> None:
    """Compare the database with the tables of the code.

    Raises:
        CannotMigrate: They differ, or the database is not at the newest revision.
    """
    try:
        command.check(config(database_url))
    except CommandError as error:
        raise CannotMigrate(f"The database is not what the code describes: {error}") from error
