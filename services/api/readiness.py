"""Finds out which parts of the service are up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.api.schemas.health import Part, PartName, Readiness
from shared.domain.roles import WorkerRole
from shared.settings import Settings
from shared.store import queries
from shared.store.compatibility import REVISION, Fit, read_schema
from shared.store.database import Database, DatabaseUnavailable

HEARTBEATS: Final[tuple[PartName, ...]] = ("orchestrator", "broker", *WorkerRole)
"""Parts that are up while their heartbeats arrive. Orchestrators report the broker, and forward those of workers."""

MISSED_BEATS = 3
"""Number of heartbeats that a process may miss before it counts as down."""


def silence_s(settings: Settings) -> float:
    """Return the seconds without a heartbeat after which a process counts as down."""
    return MISSED_BEATS * settings.heartbeat_s


def read_readiness(database: Database, settings: Settings) -> Readiness:
    """Read the state of every part. Submissions need only the database; without other parts, problems wait."""
    parts = list(_read_parts(database, silence_s=silence_s(settings)))
    down = [part.name for part in parts if not part.is_up]
    if "database" in down or "schema" in down:
        return Readiness(status="unavailable", down=down, parts=parts)
    return Readiness(status="degraded" if down else "ready", down=down, parts=parts)


def _read_parts(database: Database, *, silence_s: float) -> Iterator[Part]:
    try:
        with database.session() as session:
            schema = read_schema(session.connection())
            is_compatible = schema.fit is Fit.COMPATIBLE
            # An incompatible schema may lack the table.
            processes = queries.list_processes(session) if is_compatible else []
            now = queries.read_clock(session)
    except DatabaseUnavailable as error:
        yield Part(name="database", is_up=False, detail=str(error))
        for name in ("schema", *HEARTBEATS):
            yield Part(name=name, is_up=False, detail="Unknown while the database is down.")
        return
    yield Part(name="database", is_up=True, detail="The database answers.")
    detail = str(schema.error or f"The schema is {schema.revision}; this version needs {REVISION} or newer.")
    yield Part(name="schema", is_up=is_compatible, detail=detail)
    beating = [(each, ago_s) for each in processes if (ago_s := (now - each.seen_at).total_seconds()) <= silence_s]
    for part in HEARTBEATS:
        up = [(each, ago_s) for each, ago_s in beating if each.role == part]
        names = ", ".join(f"{each.name} ({ago_s:.0f} s ago)" for each, ago_s in up)
        detail = f"Heartbeats: {names}." if up else f"No heartbeat in the last {silence_s:.0f} s."
        models = sorted({each.model for each, _ in up if each.model is not None})
        yield Part(name=part, is_up=bool(up), detail=detail, models=models)
