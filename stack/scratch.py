"""Temporary databases and queues on given servers, for tests and benchmarks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

import migrations
from shared.bus.connection import connect, is_pgmq
from shared.bus.topology import Topology
from shared.settings import Settings


@contextmanager
def scratch_database(server_url: str) -> Iterator[str]:
    """Create a database on a server, migrate it, and drop it after the block.

    Args:
        server_url: URL of a database from which others can be created, such as `postgres`.

    Yields:
        The URL of the new database.
    """
    name = f"trim_scratch_{secrets.token_hex(4)}"
    url = make_url(server_url).set(drivername="postgresql")
    server = url.render_as_string(hide_password=False)
    try:
        _execute(server, f"CREATE DATABASE {name}")
        made = url.set(database=name).render_as_string(hide_password=False)
        migrations.upgrade(made)
        yield made
    finally:
        _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def scratch_queues(settings: Settings) -> Iterator[None]:
    """Delete the deployment's queues after the block; those of pgmq are dropped with their database."""
    try:
        yield
    finally:
        if not is_pgmq(settings):
            connection = connect(settings)
            Topology(settings.queue_prefix).delete(connection)
            connection.release()


def scratch_prefix() -> str:
    """Return a random queue prefix."""
    return f"scratch_{secrets.token_hex(4)}"


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
