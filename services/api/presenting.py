"""Presents stored rows as the API returns them."""

from __future__ import annotations

from services.api import schemas
from shared.store import queries
from shared.store.reasoning import read_options


def show(reading: queries.ProblemReading) -> schemas.Problem:
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
