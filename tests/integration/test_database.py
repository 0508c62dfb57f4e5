"""Connections to databases that were set up in unusual ways."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import make_url, text

import migrations
from migrations.session import NotInUnicode
from shared.store.database import Database, DatabaseUnavailable
from stack.scratch import scratch_database
from tests.integration.solving import rows

pytestmark = pytest.mark.servers


def test_a_password_may_hold_any_character(postgres_server: str) -> None:
    """A server that trusts this machine checks no password, but the driver has to understand it."""
    url = make_url(postgres_server).set(password="a b+c@d/e%f:g'h\\i")
    with closing(Database(url.render_as_string(hide_password=False))) as database:
        assert rows(database, "SELECT 1 AS one") == [{"one": 1}]
        database.listen().close()


@pytest.fixture
def bytes_url(postgres_server: str) -> Iterator[str]:
    """URL of a database that stores bytes in no encoding, as one of the locale C does by default."""
    name = f"trim_bytes_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(f"CREATE DATABASE {name} {options}".encode())
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_a_database_in_another_encoding_is_refused_with_a_sentence(bytes_url: str) -> None:
    with pytest.raises(NotInUnicode, match="encoding is SQL_ASCII; create it with ENCODING 'UTF8'"):
        migrations.upgrade(bytes_url)
    assert migrations.read_revision(bytes_url) is None


def test_a_database_that_takes_no_writes_is_unavailable_until_it_does(postgres_server: str) -> None:
    """A standby, or a primary that still recovers, is like that."""
    with scratch_database(postgres_server) as url, closing(Database(url)) as database:
        name = make_url(url).database
        for is_read_only in (True, False):
            with psycopg.connect(postgres_server, autocommit=True) as admin:
                admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {is_read_only}'.encode())
            if is_read_only:
                for connect in (database.listen, database.begin().__enter__):
                    with pytest.raises(DatabaseUnavailable):
                        connect()
            else:
                database.listen().close()
                with database.begin() as connection:
                    connection.execute(text("CREATE TABLE made ()"))
