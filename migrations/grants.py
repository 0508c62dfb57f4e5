"""What each service may do in the database, for users that are not the owner of the tables.

The owner migrates. Each service logs in as a separate user (docs/operations/database-users.md), which gets exactly the
privileges below with each `upgrade`, so a table that a migration adds is never forgotten. Workers have no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, text

API: Final = "trim_api"
ORCHESTRATOR: Final = "trim_orchestrator"
AUDITOR: Final = "trim_auditor"

READ: Final = "SELECT"

_RECORD: Final = ("problems", "batches", "steps", "decisions", "shadow_decisions", "policy_versions", "audit")
"""What an auditor reads."""

GRANTS: Final[Mapping[str, Mapping[str, str]]] = {
    API: {
        **dict.fromkeys(
            ("alembic_version", "schema_compatibility", "steps", "decisions", "shadow_decisions", "audit", "processes"),
            READ,
        ),
        "batches": "SELECT, INSERT, UPDATE (cancel_requested_at)",
        "changes": "SELECT, INSERT",
        # A client that leaves takes its key with it.
        "idempotency_keys": "SELECT, INSERT, UPDATE (request_digest, created_at), DELETE",
        # A submission, and the request to cancel it. Reasoning state has one writer.
        "problems": "SELECT, INSERT, UPDATE (cancel_requested_at)",
        "policy_versions": "SELECT, INSERT, UPDATE (is_default, retired_at)",
        "tenants": "SELECT, INSERT, UPDATE",
        # A key keeps its tenant, its scopes and its hash.
        "api_keys": "SELECT, INSERT, UPDATE (expires_at, revoked_at, last_used_at)",
        "request_counts": "SELECT, INSERT, UPDATE (minute, requests)",
    },
    ORCHESTRATOR: {
        **dict.fromkeys(
            ("alembic_version", "schema_compatibility", "batches", "policy_versions", "audit", "tenants"), READ
        ),
        "problems": "SELECT, UPDATE",
        "steps": "SELECT, INSERT, UPDATE (score)",
        # Nobody changes or deletes a decision; a trigger refuses it to the owner too.
        "decisions": "SELECT, INSERT",
        "shadow_decisions": "SELECT, INSERT",
        "inbox": "SELECT, INSERT, DELETE",
        # To lock the old ones takes the privilege to update them.
        "changes": "SELECT, INSERT, UPDATE (changed_at), DELETE",
        "idempotency_keys": "SELECT, UPDATE (request_digest), DELETE",
        "processes": "SELECT, INSERT, UPDATE, DELETE",
    },
    AUDITOR: dict.fromkeys(_RECORD, READ),
}
"""Privileges by user, and by table or view."""


def grant(connection: Connection, names: Mapping[str, str] | None = None) -> list[str]:
    """Give each user that exists on the server its privileges, and take all others from it.

    Args:
        connection: A connection of the owner of the tables.
        names: Names of the users, if they have others than those of `GRANTS`.

    Returns:
        The names of the users that got privileges.
    """
    # Not the owner itself, which may have any name: it would lose its rights.
    known = set(connection.scalars(text("SELECT rolname FROM pg_roles WHERE rolname <> current_user")))
    ours = [_quoted(connection, each) for each in connection.scalars(_OURS)]
    schema = _quoted(connection, connection.scalar(text("SELECT current_schema()")))
    granted = []
    for service, tables in GRANTS.items():
        name = (names or {}).get(service, service)
        if name not in known:
            continue
        user = _quoted(connection, name)
        statements = [
            f"REVOKE ALL ON {', '.join(f'{schema}.{each}' for each in ours)} FROM {user}",
            *(f"GRANT {privileges} ON {schema}.{table} TO {user}" for table, privileges in tables.items()),
            f"GRANT USAGE ON SCHEMA {schema} TO {user}",
        ]
        connection.execute(text("; ".join(statements)))
        granted.append(name)
    return granted


_OURS: Final = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
      AND relowner = current_user::regrole
""")
"""The tables and views of the owner: the schema may have those of other applications."""


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
