"""Endpoints for problems and their record."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response, status
from starlette.concurrency import run_in_threadpool

from services.api.counting import count_submitted
from services.api.dependencies import (
    Cursor,
    IdempotencyKey,
    Limit,
    ProblemId,
    Stopping,
    WithDatabase,
    WithSettings,
    WithTenant,
)
from services.api.errors import RESPONSES, found
from services.api.json_route import JsonRoute
from services.api.presenting import show_audit, show_decision, show_problem, show_step
from services.api.readiness import silence_s
from services.api.schemas.problems import Problem, ProblemPage
from services.api.schemas.record import AuditPage, DecisionPage, StepPage
from services.api.schemas.submissions import ProblemRequest
from services.api.submitting import check_problem, idempotency
from services.api.tracing import export_submission
from services.api.waiting import wait_until_final
from shared.domain.status import Status
from shared.store import queries
from shared.store.database import Database
from shared.store.submissions import request_cancel, submit_problem

router = APIRouter(prefix="/v1/problems", tags=["problems"], route_class=JsonRoute, responses=RESPONSES)


@router.post("", status_code=status.HTTP_201_CREATED)
def submit(  # noqa: PLR0917 - FastAPI passes arguments by name
    body: ProblemRequest,
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    idempotency_key: IdempotencyKey = None,
) -> Problem:
    """Submit a problem. It waits in the queue until an orchestrator starts it."""
    submission = check_problem(body, settings)
    with database.session() as session:
        stored = submit_problem(
            session, tenant_id, submission, idempotency(idempotency_key, body), silence_s=silence_s(settings)
        )
        problem = show_problem(found(queries.read_problem(session, tenant_id, stored.id)))
    count_submitted(stored)
    response.headers["Location"] = problem.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    else:
        export_submission(request, [stored.id])
    return problem


@router.get("")
def list_(  # noqa: PLR0917 - FastAPI passes arguments by name
    database: WithDatabase,
    tenant_id: WithTenant,
    status: Annotated[Status | None, Query(description="Status of the problems to list.")] = None,
    policy: Annotated[
        str | None, Query(max_length=80, pattern="^[a-z0-9-]+$", description="Policy of the problems to list.")
    ] = None,
    arm: Annotated[
        str | None, Query(max_length=40, pattern="^[a-z0-9_-]+$", description="Arm of the problems to list.")
    ] = None,
    batch_id: Annotated[UUID | None, Query(description="Batch of the problems to list.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ProblemPage:
    """List problems, newest first; the problems of a batch in reverse order of submission."""
    wanted = queries.ProblemFilter(status=status, policy=policy, arm=arm, batch_id=batch_id)
    with database.session() as session:
        page = queries.list_problems(session, tenant_id, wanted, limit=limit, cursor=cursor)
    return ProblemPage(items=[show_problem(each) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}")
async def get(  # noqa: PLR0917 - FastAPI passes arguments by name
    problem_id: ProblemId,
    request: Request,
    database: WithDatabase,
    stopping: Stopping,
    tenant_id: WithTenant,
    wait_s: Annotated[float, Query(ge=0, le=60, description="Maximum number of seconds to wait for the end.")] = 0,
) -> Problem:
    """Get a problem, at once or when it ends."""
    await wait_until_final(
        problem_id, tenant_id=tenant_id, wait_s=wait_s, request=request, database=database, stopping=stopping
    )
    return await run_in_threadpool(_read, database, tenant_id, problem_id)


@router.post("/{problem_id}/cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel(problem_id: ProblemId, response: Response, database: WithDatabase, tenant_id: WithTenant) -> Problem:
    """Cancel a problem: status 202 while it is open, 200 if it has ended already."""
    with database.session() as session:
        if not request_cancel(session, tenant_id, problem_id):
            response.status_code = status.HTTP_200_OK
        return show_problem(found(queries.read_problem(session, tenant_id, problem_id)))


@router.get("/{problem_id}/steps")
def steps(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> StepPage:
    """List the accepted steps of a problem in the order of the solution."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_steps(session, problem_id, limit=limit, cursor=cursor)
    return StepPage(items=[show_step(each) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}/decisions")
def decisions(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> DecisionPage:
    """List the decisions on a problem in the order in which they were taken."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_decisions(session, problem_id, limit=limit, cursor=cursor)
        shadows = queries.list_shadow_decisions(session, problem_id, [each.number for each in page.items])
    return DecisionPage(items=[show_decision(each, shadows) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}/audit")
def audit(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> AuditPage:
    """List the decisions on a problem, each beside the step that the solution now has at its place."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_audit(session, problem_id, limit=limit, cursor=cursor)
        shadows = queries.list_shadow_decisions(session, problem_id, [each.number for each in page.items])
    return AuditPage(items=[show_audit(each, shadows) for each in page.items], next_cursor=page.next_cursor)


def _read(database: Database, tenant_id: UUID, problem_id: UUID) -> Problem:
    with database.session() as session:
        return show_problem(found(queries.read_problem(session, tenant_id, problem_id)))
