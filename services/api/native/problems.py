"""Endpoints for problems and their record."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response, status

from services.api.counting import count_submitted
from services.api.dependencies import (
    Cursor,
    IdempotencyKey,
    Limit,
    ProblemId,
    RootPath,
    WithDatabase,
    WithSettings,
    WithTenant,
    WithWaiting,
)
from services.api.errors import BODY_REFUSALS, found, refusals
from services.api.filters import WithFilter
from services.api.lanes import READS
from services.api.lock_retries import retry_while_locked
from services.api.presenting import show_audit, show_decision, show_problem, show_problems, show_step
from services.api.route import CheckedRoute
from services.api.schemas.problems import Problem, ProblemPage
from services.api.schemas.record import AuditPage, DecisionPage, StepPage
from services.api.schemas.submissions import ProblemRequest
from services.api.submitting import check_problem, idempotency
from services.api.tracing import export_submission
from services.api.waiting import LONGEST_WAIT_S, wait_for
from shared.heartbeats import silence_s
from shared.store import queries
from shared.store.cancelling import request_cancel
from shared.store.database import Database
from shared.store.finding import list_problems
from shared.store.submissions import submit_problem

router = APIRouter(prefix="/v1/problems", tags=["problems"], route_class=CheckedRoute)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": Problem, "description": "Problem that an earlier request with the same idempotency key made."},
        **refusals(*BODY_REFUSALS, 409, 503),
    },
)
def submit(  # noqa: PLR0917 - FastAPI passes arguments by name
    body: ProblemRequest,
    request: Request,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    idempotency_key: IdempotencyKey = None,
) -> Problem:
    """Submit a problem. It waits in the queue until an orchestrator starts it."""
    checked = check_problem(body, settings)
    with database.session() as session:
        stored = submit_problem(
            session,
            tenant_id,
            checked.submission,
            idempotency(idempotency_key, checked),
            silence_s=silence_s(settings),
            max_queued=settings.tenant_max_queued,
        )
        row = found(queries.read_problem(session, tenant_id, stored.id))
        problem = show_problem(session, row, root_path, silence_s=silence_s(settings))
    count_submitted(stored)
    response.headers["Location"] = problem.links["self"]
    if not stored.is_new:
        response.status_code = status.HTTP_200_OK
    else:
        export_submission(request, [stored.id])
    return problem


@router.get("", responses=refusals(503))
def list_(  # noqa: PLR0917 - FastAPI passes arguments by name
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
    wanted: WithFilter,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ProblemPage:
    """List problems, newest first; the problems of a batch in reverse order of submission.

    No index has the verdict, the stop reason and whether steps were escalated, and for a batch no other condition
    either. With such a condition a page looks at 2,000 problems at most. It may have fewer items than `limit`, or none,
    and still a `next_cursor`.
    """
    with database.session() as session:
        page = list_problems(session, tenant_id, wanted, limit=limit, cursor=cursor)
        items = show_problems(session, page.items, root_path, silence_s=silence_s(settings))
    return ProblemPage(items=items, next_cursor=page.next_cursor)


@router.get("/{problem_id}", responses=refusals(404, 503))
async def get(  # noqa: PLR0917 - FastAPI passes arguments by name
    problem_id: ProblemId,
    request: Request,
    database: WithDatabase,
    settings: WithSettings,
    waiting: WithWaiting,
    tenant_id: WithTenant,
    root_path: RootPath,
    wait_s: Annotated[
        float,
        Query(
            ge=0,
            le=60,
            description="Maximum number of seconds to wait for the end. The response comes after "
            f"{LONGEST_WAIT_S:.0f} at the latest, before a proxy cuts the connection.",
        ),
    ] = 0,
) -> Problem:
    """Get a problem, at once or when it ends."""
    read = partial(_read, database, tenant_id, problem_id, root_path, silence_s=silence_s(settings))
    # Registered before the first look, so that no end is missed between the two.
    with waiting.for_end(problem_id) as wake:
        problem = await READS.run(read)
        if wait_s == 0 or problem.status.is_final:
            return problem
        await wait_for(wake, longest_s=min(wait_s, LONGEST_WAIT_S), receive=request.receive)
    # Thousands of looks would take longer than the process has to stop.
    return problem if waiting.is_stopping else await READS.run(read)


@router.post(
    "/{problem_id}/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    responses={200: {"model": Problem, "description": "Problem that had ended already."}, **refusals(404, 503)},
)
async def cancel(  # noqa: PLR0917 - FastAPI passes arguments by name
    problem_id: ProblemId,
    response: Response,
    database: WithDatabase,
    settings: WithSettings,
    tenant_id: WithTenant,
    root_path: RootPath,
) -> Problem:
    """Cancel a problem: status 202 while it is open, 200 if it has ended already."""
    work = partial(_cancel, database, tenant_id, problem_id, root_path, silence_s=silence_s(settings))
    is_open, problem = await retry_while_locked(partial(to_thread.run_sync, work))
    if not is_open:
        response.status_code = status.HTTP_200_OK
    return problem


def _cancel(
    database: Database, tenant_id: UUID, problem_id: UUID, root_path: str, *, silence_s: float
) -> tuple[bool, Problem]:
    """Request a cancellation; return whether the problem was still open, and the problem."""
    with database.session() as session:
        is_open = request_cancel(session, tenant_id, problem_id)
        row = found(queries.read_problem(session, tenant_id, problem_id))
        return is_open, show_problem(session, row, root_path, silence_s=silence_s)


@router.get("/{problem_id}/steps", responses=refusals(404, 503))
def steps(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> StepPage:
    """List the accepted steps of a problem in the order of the solution."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_steps(session, problem_id, limit=limit, cursor=cursor)
    return StepPage(items=[show_step(each) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}/decisions", responses=refusals(404, 503))
def decisions(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> DecisionPage:
    """List the decisions on a problem in the order in which they were taken."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_decisions(session, problem_id, limit=limit, cursor=cursor)
        shadows = queries.list_shadow_decisions(session, problem_id, [each.number for each in page.items])
    return DecisionPage(items=[show_decision(each, shadows) for each in page.items], next_cursor=page.next_cursor)


@router.get("/{problem_id}/audit", responses=refusals(404, 503))
def audit(
    problem_id: ProblemId, database: WithDatabase, tenant_id: WithTenant, cursor: Cursor = None, limit: Limit = 200
) -> AuditPage:
    """List the decisions on a problem, each beside the step that the solution now has at its place."""
    with database.session() as session:
        found(queries.read_status(session, tenant_id, problem_id))
        page = queries.list_audit(session, problem_id, limit=limit, cursor=cursor)
        shadows = queries.list_shadow_decisions(session, problem_id, [each.number for each in page.items])
    return AuditPage(items=[show_audit(each, shadows) for each in page.items], next_cursor=page.next_cursor)


def _read(database: Database, tenant_id: UUID, problem_id: UUID, root_path: str, *, silence_s: float) -> Problem:
    with database.session() as session:
        row = found(queries.read_problem(session, tenant_id, problem_id))
        return show_problem(session, row, root_path, silence_s=silence_s)
