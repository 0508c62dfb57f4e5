"""Endpoints about the service itself: which policies there are, and whether every part is up."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from fastapi import APIRouter, Response, status

from services.api import schemas
from services.api.dependencies import WithDatabase, WithSettings
from services.api.errors import RESPONSES
from shared.policies.registry import POLICIES
from shared.store import queries
from shared.store.database import Database, DatabaseUnavailable
from shared.store.schema import REVISION, Fit, read_schema

ROLES = ("orchestrator", "broker", "small", "large", "prm")
"""What a problem needs besides this process. Orchestrators report the broker; workers report by way of it."""

SILENCE_BEATS = 3
"""Heartbeats that a process may miss before it counts as down."""

router = APIRouter(tags=["service"], responses=RESPONSES)


@router.get("/v1/policies")
def policies() -> list[schemas.PolicyDescription]:
    """List the policies that a submission can name."""
    return [
        schemas.PolicyDescription(
            name=name,
            revision=kind.revision,
            description=(inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
            parameters=kind.model_json_schema(),
        )
        for name, kind in sorted(POLICIES.items())
    ]


@router.get("/health/live")
def live() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "live"}


@router.get("/health/ready")
def ready(response: Response, database: WithDatabase, settings: WithSettings) -> schemas.Readiness:
    """Tell whether submissions are taken, and which parts of the service are down.

    Submissions need the database alone; without the rest they wait, and the status is `degraded`.
    """
    parts = list(_parts(database, silence_s=SILENCE_BEATS * settings.heartbeat_s))
    down = [part.name for part in parts if not part.is_up]
    if "database" in down or "schema" in down:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return schemas.Readiness(status="unavailable", down=down, parts=parts)
    return schemas.Readiness(status="degraded" if down else "ready", down=down, parts=parts)


def _parts(database: Database, *, silence_s: float) -> Iterator[schemas.Part]:
    """Name every part, whatever is down: nothing is known of a part behind one that is."""
    try:
        with database.session() as session:
            schema = read_schema(session.connection())
            is_compatible = schema.fit is Fit.COMPATIBLE
            # An incompatible schema may lack the table.
            processes = queries.list_processes(session) if is_compatible else []
            now = queries.read_clock(session)
    except DatabaseUnavailable as error:
        yield schemas.Part(name="database", is_up=False, detail=str(error))
        for name in ("schema", *ROLES):
            yield schemas.Part(name=name, is_up=False, detail="Unknown while the database is down.")
        return
    yield schemas.Part(name="database", is_up=True, detail="It answers.")
    detail = str(schema.error or f"It is {schema.revision}; this version needs {REVISION} or newer.")
    yield schemas.Part(name="schema", is_up=is_compatible, detail=detail)
    seen = [(each.role, each.name, (now - each.seen_at).total_seconds()) for each in processes]
    for role in ROLES:
        up = [f"{name} ({ago_s:.0f} s ago)" for of_role, name, ago_s in seen if of_role == role and ago_s <= silence_s]
        detail = f"Seen: {', '.join(up)}." if up else f"None was seen in the last {silence_s:.0f} s."
        yield schemas.Part(name=role, is_up=bool(up), detail=detail)
