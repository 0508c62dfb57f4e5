"""Endpoints for single problems: submit, look, list, cancel, and the record of their steps and decisions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, status
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from services.api import schemas
from services.api.errors import RESPONSES, InvalidSubmission, NotFound
from services.api.requests import JsonRoute
from shared.domain.values import Limits, Options, Sampling, Status
from shared.errors import PermanentError
from shared.policies.registry import build_policy
from shared.settings import Settings
from shared.store import readings
from shared.store.database import Database
from shared.store.reasoning import read_options
from shared.store.submissions import Idempotency, Submission, request_cancel, submit_problem

MAX_STEP = 1_000_000
"""Far past any step's index, and still an integer for the database."""

WAIT_POLL_S = 0.1
"""How often a waiting request looks whether its problem has ended."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes it safe to send the request again: the same key and body give the same result.",
    ),
]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; no other listing takes it.")
]
Limit = Annotated[int, Query(ge=1, le=200, description="Most items of the answer.")]
After = Annotated[int, Query(ge=-1, le=MAX_STEP, description="Begin after this step.")]


def get_database(request: Request) -> Database:
    """Return the app's database."""
    database: Database = request.app.state.database
    return database


def get_settings(request: Request) -> Settings:
    """Return the app's settings."""
    settings: Settings = request.app.state.settings
    return settings


def get_stopping(request: Request) -> threading.Event:
    """Return what is set once the process is told to stop."""
    stopping: threading.Event = request.app.state.stopping
    return stopping


WithDatabase = Annotated[Database, Depends(get_database)]
WithSettings = Annotated[Settings, Depends(get_settings)]

Stopping = Annotated[threading.Event, Depends(get_stopping)]

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
        shown = show(_found(readings.read_problem(session, stored.id)))
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
    wanted = readings.ProblemFilter(status=status, policy=policy, batch_id=batch_id)
    with database.session() as session:
        page = readings.list_problems(session, wanted, limit=limit, cursor=cursor)
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
        return show(_found(readings.read_problem(session, problem_id)))


@router.get("/{problem_id}/steps")
def steps(problem_id: UUID, database: WithDatabase, after: After = -1, limit: Limit = 200) -> schemas.StepPage:
    """List the accepted steps of a problem."""
    with database.session() as session:
        _found(readings.read_status(session, problem_id))
        found = readings.list_steps(session, problem_id, limit=limit, after=after)
        return schemas.StepPage(items=[schemas.Step.model_validate(each) for each in found])


@router.get("/{problem_id}/decisions")
def decisions(problem_id: UUID, database: WithDatabase, after: After = -1, limit: Limit = 200) -> schemas.DecisionPage:
    """List the decisions on a problem, with all that the policy saw."""
    with database.session() as session:
        _found(readings.read_status(session, problem_id))
        found = readings.list_decisions(session, problem_id, limit=limit, after=after)
        return schemas.DecisionPage(items=[schemas.Decision.model_validate(each) for each in found])


@router.get("/{problem_id}/audit")
def audit(
    problem_id: Annotated[UUID, Path()], database: WithDatabase, after: After = -1, limit: Limit = 200
) -> schemas.AuditPage:
    """Show why each step stands where it does: one row a step."""
    with database.session() as session:
        _found(readings.read_status(session, problem_id))
        return schemas.AuditPage(items=readings.read_audit(session, problem_id, limit=limit, after=after))


def check(body: schemas.ProblemRequest, settings: Settings, *, field: str) -> Submission:
    """Check what the schema cannot, and complete a submission.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    if len(body.question) > settings.max_question_chars:
        detail = f"The question has {len(body.question)} characters; at most {settings.max_question_chars} are taken."
        raise InvalidSubmission(f"{field}.question", detail)
    try:
        policy = build_policy(body.policy.name, body.policy.parameters)
    except PermanentError as error:
        raise InvalidSubmission(f"{field}.policy", error) from error
    seed = secrets.randbelow(schemas.MAX_SEED) if body.sampling.seed is None else body.sampling.seed
    deadline_at = None
    if body.deadline_s is not None:
        deadline_at = datetime.now(UTC) + timedelta(seconds=body.deadline_s)
    return Submission(
        question=body.question,
        reference=body.reference,
        policy=policy,
        options=Options(
            plan=policy.plan,
            lookahead=None if body.lookahead == "unlimited" else body.lookahead,
            limits=Limits(**body.limits.model_dump()),
            sampling=Sampling(**{**body.sampling.model_dump(), "seed": seed}),
            step_timeout_s=body.step_timeout_s,
            max_attempts=body.max_attempts,
            deadline_at=deadline_at,
        ),
    )


def idempotency(key: str | None, body: BaseModel) -> Idempotency | None:
    """Pair an idempotency key with the digest of the request's content."""
    if key is None:
        return None
    # What was sent, whatever its order: neither a default added later nor a reordered object makes it another request.
    content = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return Idempotency(key=key, digest=hashlib.sha256(content.encode()).hexdigest())


def show(reading: readings.ProblemReading) -> schemas.Problem:
    """Show a problem as the API returns it."""
    row = reading.problem
    options = read_options(row.options, row.deadline_at)
    here = f"/v1/problems/{row.id}"
    return schemas.Problem(
        id=row.id,
        status=row.status,
        question=row.question,
        reference=row.reference,
        policy=schemas.Policy(name=row.policy, revision=row.policy_revision, parameters=row.policy_parameters),
        lookahead="unlimited" if options.lookahead is None else options.lookahead,
        limits=schemas.LimitsChoice.model_validate(options.limits, from_attributes=True),
        sampling=schemas.SamplingChoice.model_validate(options.sampling, from_attributes=True),
        step_timeout_s=options.step_timeout_s,
        max_attempts=options.max_attempts,
        deadline_at=row.deadline_at,
        batch_id=row.batch_id,
        batch_index=row.batch_index,
        steps=reading.steps,
        escalated_steps=reading.escalated_steps,
        epoch=row.epoch,
        answer=row.answer,
        verdict=row.verdict,
        stop_reason=row.stop_reason,
        failure=schemas.Failure(code=row.failure_code, detail=row.failure_detail or "") if row.failure_code else None,
        ledger=schemas.Ledger.model_validate(row),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        cancel_requested_at=row.cancel_requested_at,
        links={"self": here, **{name: f"{here}/{name}" for name in ("steps", "decisions", "audit", "cancel")}},
    )


def _found(found: T | None) -> T:
    if found is None:
        raise NotFound
    return found


def _status(database: Database, problem_id: UUID) -> str:
    with database.session() as session:
        return _found(readings.read_status(session, problem_id))


def _problem(database: Database, problem_id: UUID) -> schemas.Problem:
    with database.session() as session:
        return show(_found(readings.read_problem(session, problem_id)))
