"""Refusals of Postgres: connections that fail until someone changes settings, unlike those to a server that is down."""

from __future__ import annotations

import re

# A failed connection has no SQLSTATE in libpq, only the server's sentence. Servers in other languages than English are
# therefore waited for, as if they were down.
_REFUSALS = re.compile(
    r"FATAL:\s+(password authentication failed|role \".*\" does not exist|database \".*\" does not exist"
    r"|no pg_hba\.conf entry|permission denied for database|role \".*\" is not permitted to log in)"
    r"|fe_sendauth: no password supplied"
)


def is_refusal(message: str) -> bool:
    """Tell whether a connection failed because of the user, the password or the database in its URL."""
    return _REFUSALS.search(message) is not None
