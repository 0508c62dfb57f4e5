"""What a server of Postgres tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Server:
    """A server as one of its sessions sees it."""

    version: str
    user: str
    database: str
    now: datetime
    """Its time of day."""


def read_server(connection: Connection) -> Server:
    """Read version, user, database and clock of the server."""
    return Server(*connection.execute(_READ).one())


_READ = text(
    "SELECT split_part(current_setting('server_version'), ' ', 1), current_user, current_database(), clock_timestamp()"
)
