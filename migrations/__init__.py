"""The database: `python -m migrations upgrade | downgrade REVISION | check | verify | new PHASE NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from psycopg.errors import LockNotAvailable, QueryCanceled
from sqlalchemy.exc import DBAPIError

from migrations import session
from migrations.drift import find_drift
from migrations.grants import grant
from migrations.phases import Phase
from shared.errors import PermanentError, RetryableError
from shared.store.compatibility import read_schema
from shared.store.database import Database, DatabaseBusy

HERE = Path(__file__).parent
VERSIONS = HERE / "versions"


class CannotMigrate(PermanentError):
    """The database cannot be brought to that revision."""

    code = "cannot_migrate"


class MigrationTimedOut(RetryableError):
    """A migration timed out and was rolled back; run the command again."""

    code = "migration_timed_out"


class Drifted(PermanentError):
    """The database is not what the code describes."""

    code = "drifted"


def config(database_url: str, *versions: Path) -> Config:
    """Make Alembic's configuration for a database.

    Args:
        database_url: The database's URL.
        versions: Folders with further migrations.
    """
    made = Config()
    # The format is that of an ini file, in which % has a meaning; the default separators occur in paths.
    made.set_main_option("script_location", _literal(HERE))
    made.set_main_option("path_separator", "newline")
    made.set_main_option("version_locations", "\n".join(map(_literal, (VERSIONS, *versions))))
    made.attributes["database_url"] = database_url
    return made


def _literal(path: Path) -> str:
    return str(path).replace("%", "%%")


def upgrade(database_url: str, revision: str = "head", *versions: Path) -> str:
    """Bring a database to a revision. Processes that do so at the same time take turns.

    A schema that is newer than this version stays as it is, as long as it allows this version. At the newest revision,
    users of services get their privileges.

    Args:
        database_url: The database's URL.
        revision: The revision to stop at.
        versions: Folders with further migrations.

    Returns:
        The database's revision, and the one before.

    Raises:
        CannotMigrate: A migration failed, there is no such revision, or the database's revision is unknown.
        CodeOutdated: The database's schema is newer and excludes this version.
        MigrationTimedOut: A migration waited too long for a lock, or ran too long. Those before it are committed.
        MigrationInProgress: Another process is migrating the database.
        NotInUnicode: The database has another encoding than UTF8.
        DatabaseUnavailable: The database does not answer.
    """
    configured = config(database_url, *versions)
    head = ScriptDirectory.from_config(configured).get_current_head()
    with closing(Database(database_url)) as database, database.begin() as connection:
        schema = read_schema(connection)
    before = schema.revision
    if revision == "head" and before is not None and head is not None and before > head:
        if schema.error:
            raise schema.error
        return f"{before} (newer than {head}, and compatible with this version)"
    with _explained(database_url):
        command.upgrade(configured, revision)
        if revision == "head":
            with session.migrating(database_url) as connection, connection.begin():
                grant(connection)
    after = read_revision(database_url)
    return f"{after} (nothing to do)" if after == before else f"{after} (it was {before or 'missing'})"


def read_revision(database_url: str) -> str | None:
    """Read a database's revision; `None` if it was never migrated.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    with closing(Database(database_url)) as database, database.begin() as connection:
        return read_schema(connection).revision


def downgrade(database_url: str, revision: str, *versions: Path) -> None:
    """Take a database back to a revision; `base` drops everything.

    Raises:
        CannotMigrate, MigrationTimedOut, MigrationInProgress, DatabaseUnavailable: See `upgrade`.
    """
    with _explained(database_url):
        command.downgrade(config(database_url, *versions), revision)


def check(database_url: str) -> None:
    """Compare a database with the tables, functions, triggers and views of the code.

    Raises:
        Drifted: They differ, or the database is not at the code's revision.
        DatabaseUnavailable: The database does not answer.
    """
    with closing(Database(database_url)) as database, database.connect() as connection:
        # Closing the connection rolls back.
        differences = find_drift(connection)
    if differences:
        raise Drifted(f"The database is not what the code describes: {'; '.join(differences)}.")


def new(phase: Phase, name: str, *versions: Path) -> Path:
    """Write the file of the next migration from the template.

    Args:
        phase: Whether the migration expands or contracts the schema.
        name: What it does, in a few words.
        versions: Folders with further migrations; the last one gets the file.

    Returns:
        The file.
    """
    script = ScriptDirectory.from_config(config("", *versions))
    revision = f"{int(script.get_current_head() or 0) + 1:04}"
    folder = (VERSIONS, *versions)[-1]
    made = script.generate_revision(revision, f"{phase} {name}", version_path=folder, phase=phase, name=name)
    assert made is not None
    return Path(made.path)


@contextmanager
def _explained(database_url: str) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise CannotMigrate from error
    except DatabaseBusy as error:
        stays = f"the schema stays at {read_revision(database_url) or 'base'}; run the command again."
        if isinstance(error.__cause__, LockNotAvailable):
            waited = f"A migration waited {session.LOCK_TIMEOUT_S} s for a lock that another session holds"
            raise MigrationTimedOut(f"{waited}; {stays}") from error.__cause__
        if isinstance(error.__cause__, QueryCanceled):
            ran = f"A statement of a migration ran longer than {session.STATEMENT_TIMEOUT_S} s"
            raise MigrationTimedOut(f"{ran}; {stays}") from error.__cause__
        raise
    except DBAPIError as error:
        stays = f"the schema stays at {read_revision(database_url) or 'base'}"
        raise CannotMigrate(f"A migration failed and was rolled back; {stays}.") from error.orig
