"""Sessions that have held locks for long. Problems that they have locked wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

HELD_S: Final = 5.0
"""Seconds that a transaction with locks may be open before it is named; those of the service take milliseconds."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session that holds locks."""

    pid: int
    """The process of the server that `pg_terminate_backend` ends."""
    application: str
    """What it calls itself (`application_name`); may be empty."""
    user: str
    state: str
    """What it does, for example `idle in transaction`."""
    since: datetime
    """When its transaction began."""


def find_lock_holders(connection: Connection) -> list[LockHolder]:
    """Find sessions whose transaction has held locks on reasoning state for `HELD_S`; the oldest five.

    A user without the role `pg_read_all_stats` sees no sessions of other users.
    """
    return [LockHolder(*row) for row in connection.execute(_FIND, {"held_s": HELD_S})]


# Postgres has no view of row locks. A session that locks a row also locks its table, in a mode that readers, vacuums or
# concurrent index builds do not use.
_FIND = text("""
SELECT pid, coalesce(application_name, ''), coalesce(usename, ''), coalesce(state, ''), xact_start
FROM pg_stat_activity AS session
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND xact_start < clock_timestamp() - make_interval(secs => :held_s)
  AND EXISTS (
    SELECT FROM pg_locks AS held JOIN pg_class AS relation ON relation.oid = held.relation
    WHERE held.pid = session.pid AND held.granted
      AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND relation.relname IN ('problems', 'steps', 'decisions', 'shadow_decisions', 'inbox', 'processes')
      AND held.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
  )
ORDER BY xact_start
LIMIT 5
""")
