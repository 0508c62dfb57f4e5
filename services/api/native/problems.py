"""Endpoints for single problems: submit, look, list, cancel, and the record of their steps and decisions."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response, status
from starlette.concurrency import run_in_threadpool

from services.api import schemas
from services.api.dependencies import After, Cursor, IdempotencyKey, Limit, Stopping, WithDatabase, WithSettings
from services.api.errors import RESPONSES, NotFound
from services.api.json_route import JsonRoute
from services.api.presenting import show
from services.api.submitting import check, idempotency
from shared.domain.status import Status
from shared.store import queries
from shared.store.database import Database
from shared.store.submissions import request_cancel, submit_problem

WAIT_POLL_S = 0.1
"""How often a waiting request looks whether its problem has ended."""

T = TypeVar("T")

router = APIRouter(prefix="/v1/problems", tags=["problems"], route_class=JsonRoute, responses=RESPONSES)


@router.post("", status_code=status.HTTP_201_CREATED)
def submit(
    body: schemas.ProblemRequest,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    idempotency_key: IdempotencyKey = None,
) -> schemas.Problem:
    """Submit a problem. It is solved as soon as there is room for it."""
    submission = check(body, settings, field="body")
    with database.session() as session:
        stored = submit_problem(session, submission, idempotency(idempotency_key, body))
        shown = show(_found(queries.read_problem(session, stored.id)))
    response.headers["Location"] = shown.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    return shown


@router.get("")
def list_(  # noqa: PLR0917 - FastAPI fills them by name
    database: WithDatabase,
    status: Annotated[Status | None, Query(description="Only problems in this status.")] = None,
    policy: Annotated[
        str | None, Query(max_length=80, pattern="^[a-z0-9-]+$", description="Only problems of this policy.")
    ] = None,
    batch_id: Annotated[UUID | None, Query(description="Only problems of this batch.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> schemas.ProblemPage:
    """List problems, newest first; of problems that were submitted together, the last one first."""
    wanted = queries.ProblemFilter(status=status, policy=policy, batch_id=batch_id)
    with database.session() as session:
        page = queries.list_problems(session, wanted, limit=limit, cursor=cursor)
        return schemas.ProblemPage(items=[show(each) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}")
async def get(
    problem_id: UUID,
    request: Request,
    database: WithDatabase,
    stopping: Stopping,
    wait_s: Annotated[float, Query(ge=0, le=60, description="Wait up to so many seconds for the end.")] = 0,
) -> schemas.Problem:
    """Get a problem, at once or when it has ended."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        # Each look is a transaction of its own: a request that waits holds neither a connection nor a thread.
        if Status(await run_in_threadpool(_status, database, problem_id)).is_final:
            break
        if stopping.is_set() or await request.is_disconnected():
            break
        await asyncio.sleep(WAIT_POLL_S)
    return await run_in_threadpool(_problem, database, problem_id)


@router.post("/{problem_id}/cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel(problem_id: UUID, response: Response, database: WithDatabase) -> schemas.Problem:
    """Ask for a problem to be ended: 202 while it is open, 200 if it has ended anyway."""
    with database.session() as session:
        if not request_cancel(session, problem_id):
            response.status_code = status.HTTP_200_OK
        return show(_found(queries.read_problem(session, problem_id)))


@router.get("/{problem_id}/steps")
def steps(problem_id: UUID, database: WithDatabase, after: After = -1, limit: Limit = 200) -> schemas.StepPage:
    """List the accepted steps of a problem."""
    with database.session() as session:
        _found(queries.read_status(session, problem_id))
        found = queries.list_steps(session, problem_id, limit=limit, after=after)
        return schemas.StepPage(items=[schemas.Step.model_validate(each) for each in found])


@router.get("/{problem_id}/decisions")
def decisions(problem_id: UUID, database: WithDatabase, after: After = -1, limit: Limit = 200) -> schemas.DecisionPage:
    """List the decisions on a problem, with all that the policy saw."""
    with database.session() as session:
        _found(queries.read_status(session, problem_id))
        found = queries.list_decisions(session, problem_id, limit=limit, after=after)
        return schemas.DecisionPage(items=[schemas.Decision.model_validate(each) for each in found])


@router.get("/{problem_id}/audit")
def audit(
    problem_id: Annotated[UUID, Path()], database: WithDatabase, after: After = -1, limit: Limit = 200
) -> schemas.AuditPage:
    """Show why each step stands where it does: one row a step."""
    with database.session() as session:
        _found(queries.read_status(session, problem_id))
        return schemas.AuditPage(items=queries.read_audit(session, problem_id, limit=limit, after=after))


def _found(found: T | None) -> T:
    if found is None:
        raise NotFound
    return found


def _status(database: Database, problem_id: UUID) -> str:
    with database.session() as session:
        return _found(queries.read_status(session, problem_id))


def _problem(database: Database, problem_id: UUID) -> schemas.Problem:
    with database.session() as session:
        return show(_found(queries.read_problem(session, problem_id)))
