"""Dead letters on pgmq: rows that are read in place, so reading one changes nothing at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from shared.bus.connection import BrokerForbids, pgmq_conninfo, refused_or_unavailable
from shared.bus.dead_letters import Letter
from shared.bus.pgmq_server import table_of
from shared.bus.topology import QUEUES, QueueRole, Topology
from shared.settings import Settings

_PAGE: Final = 50
_STATEMENT_TIMEOUT: Final = "SET statement_timeout = '10s'"


@contextmanager
def opened_in_pgmq(settings: Settings) -> Iterator[PgmqDeadLetters]:
    """Connect for the block; see `shared.bus.dead_letters.opened`."""
    try:
        with psycopg.connect(pgmq_conninfo(settings), autocommit=True) as connection:
            connection.execute(_STATEMENT_TIMEOUT)
            yield PgmqDeadLetters(connection, Topology(settings.queue_prefix))
    except InsufficientPrivilege as error:
        raise BrokerForbids from error
    except psycopg.Error as error:
        raise refused_or_unavailable(error) from error


class PgmqDeadLetters:
    """The dead letters of a deployment on pgmq."""

    def __init__(self, connection: psycopg.Connection[Any], topology: Topology) -> None:
        self._connection = connection
        self._topology = topology

    def count(self) -> Mapping[QueueRole, int]:
        """Count the letters."""
        return {role: self._run("SELECT count(*) FROM {}", role)[0][0] if self._exists(role) else 0 for role in QUEUES}

    def read(self, role: QueueRole, *, limit: int) -> Generator[Letter, None, None]:
        """Read the rows of the queue, page by page."""
        after = 0
        while limit > 0 and self._exists(role):
            page = self._run(
                "SELECT msg_id, enqueued_at, message FROM {} WHERE msg_id > %s ORDER BY msg_id LIMIT %s",
                role, after, min(limit, _PAGE),
            )  # fmt: skip
            if not page:
                return
            for after, enqueued_at, message in page:
                body, headers = _content(message)
                yield Letter(role=role, body=body, headers=headers, stored_at=enqueued_at, handle=after)
            limit -= len(page)

    def remove(self, letter: Letter) -> None:
        """Delete the row of a letter."""
        self._connection.execute(self._over("DELETE FROM {} WHERE msg_id = %s", letter.role), [letter.handle])

    def _exists(self, role: QueueRole) -> bool:
        table = f"pgmq.{self._table(role)}"
        found = self._connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        return found is not None and found[0] is not None

    def _run(self, statement: LiteralString, role: QueueRole, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(self._over(statement, role), values).fetchall()

    def _over(self, statement: LiteralString, role: QueueRole) -> sql.Composed:
        return sql.SQL(statement).format(sql.Identifier("pgmq", self._table(role)))

    def _table(self, role: QueueRole) -> str:
        return table_of(self._topology.dead_letters(role).name)


def _content(message: Any) -> tuple[bytes, Mapping[str, Any]]:
    """Return body and headers of a message of Kombu; what another program stored is its own body."""
    body = message.get("body") if isinstance(message, dict) else None
    if not isinstance(body, str):
        return json.dumps(message).encode(), {}
    headers, properties = message.get("headers"), message.get("properties")
    is_encoded = isinstance(properties, dict) and properties.get("body_encoding") == "base64"
    try:
        raw = base64.b64decode(body, validate=True) if is_encoded else body.encode("utf-8", "surrogatepass")
    except ValueError:
        raw = body.encode("utf-8", "surrogatepass")
    return raw, headers if isinstance(headers, dict) else {}
