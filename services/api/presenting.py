"""Turns stored rows into responses. Every front door that shows problems uses it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from services.api.schemas import policies, problems, record
from services.api.schemas.submissions import LimitsChoice, SamplingChoice, WrappersChoice
from shared.domain import demonstration
from shared.domain.absences import Absence, AwayRole, find_away
from shared.domain.artefacts import EncodedArtefact
from shared.domain.roles import WorkerRole
from shared.domain.status import BatchStatus
from shared.store import batches, queries
from shared.store.change_feed import ChangeRow
from shared.store.policy_tables import PolicyVersionRow
from shared.store.rows import read_observation, read_options, read_shadow, read_waits_for
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.tables import AuditRow, Batch, DecisionRow, Problem, StepRow

_PATHS = ("steps", "decisions", "audit", "events", "cancel")
"""Paths below the one of a problem."""

Away = Mapping[WorkerRole, AwayRole]


def show_problems(
    session: Session, rows: Sequence[Problem], root_path: str, *, silence_s: float
) -> list[problems.Problem]:
    """Turn the rows of problems into responses; those of problems that wait tell for what, and why."""
    away: Away = {}
    if any(row.absences for row in rows):
        heartbeats = queries.list_processes(session)
        away = find_away(heartbeats, now=queries.read_clock(session), silence_s=silence_s)
    return [_show_problem(row, root_path, away) for row in rows]


def show_problem(session: Session, row: Problem, root_path: str, *, silence_s: float) -> problems.Problem:
    """Turn a problem's row into a response, with links below the API's root path."""
    [shown] = show_problems(session, [row], root_path, silence_s=silence_s)
    return shown


def _show_problem(row: Problem, root_path: str, away: Away) -> problems.Problem:
    options = read_options(row.options, row.deadline_at)
    path = f"{root_path}/v1/problems/{row.id}"
    return problems.Problem(
        id=row.id,
        status=row.status,
        question=row.question,
        reference=row.reference,
        policy=_show_policy(row),
        arm=row.arm,
        shadows=[_show_shadow(each) for each in row.shadows],
        lookahead="unlimited" if options.lookahead is None else options.lookahead,
        limits=LimitsChoice.model_validate(options.limits, from_attributes=True),
        sampling=SamplingChoice.model_validate(options.sampling, from_attributes=True),
        step_timeout_s=options.step_timeout_s,
        max_attempts=options.max_attempts,
        when_prm_away=options.bridging.when_prm_away,
        when_large_away=options.bridging.when_large_away,
        when_small_away=options.bridging.when_small_away,
        away_patience_s=options.bridging.away_patience_s,
        waits_for=[_show_awaited(each, away) for each in read_waits_for(row)],
        deadline_at=row.deadline_at,
        batch_id=row.batch_id,
        batch_index=row.batch_index,
        steps=row.step_count,
        escalations=row.escalation_count,
        epoch=row.epoch,
        answer=row.answer,
        verdict=row.verdict,
        stop_reason=row.stop_reason,
        failure=problems.Failure(code=row.failure_code, detail=row.failure_detail or "") if row.failure_code else None,
        note=demonstration.WRITTEN if demonstration.has_demonstration(row.models or ()) else None,
        ledger=problems.Ledger.model_validate(row),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        cancel_requested_at=row.cancel_requested_at,
        erased_at=row.erased_at,
        links={"self": path, **{name: f"{path}/{name}" for name in _PATHS}},
    )


def _show_awaited(absence: Absence, away: Away) -> problems.Awaited:
    found = away.get(absence.role)
    return problems.Awaited(
        role=absence.role,
        since=absence.since,
        code=found and found.code,
        detail=found.detail if found else "A worker of the role is back; the problem goes on soon.",
    )


def _show_policy(row: Problem) -> problems.Policy:
    return problems.Policy(
        name=row.policy,
        revision=row.policy_revision,
        parameters=row.policy_parameters,
        version=row.policy_version,
        wrappers=WrappersChoice.model_validate(row.policy_wrappers),
    )


def _show_shadow(values: Any) -> problems.Policy:
    policy = read_shadow(values).policy
    return problems.Policy(
        name=policy.name,
        revision=policy.revision,
        parameters=dict(policy.parameters),
        version=policy.version,
        wrappers=WrappersChoice.model_validate(policy.wrappers, from_attributes=True),
    )


def show_listed_batch(row: batches.ListedBatch, root_path: str) -> problems.ListedBatch:
    """Turn a batch's row into a response, with links below the API's root path."""
    return problems.ListedBatch(size=row.batch.size, **_show_batch(row.batch, row.status, root_path))


def show_batch(summary: batches.BatchSummary, root_path: str) -> problems.Batch:
    """Turn a batch and its sums into a response, with links below the API's root path."""
    return problems.Batch(
        failures=[problems.Failures.model_validate(each, from_attributes=True) for each in summary.failures],
        arms={name: problems.Sums(**_show_sums(sums)) for name, sums in summary.arms.items()},
        **_show_batch(summary.batch, summary.status, root_path),
        **_show_sums(summary.sums),
    )


def _show_batch(row: Batch, status: BatchStatus, root_path: str) -> dict[str, Any]:
    path = f"{root_path}/v1/batches/{row.id}"
    return {
        "id": row.id,
        "status": status,
        "created_at": row.created_at,
        "cancel_requested_at": row.cancel_requested_at,
        "links": {"self": path, **{name: f"{path}/{name}" for name in ("problems", "cancel")}},
    }


def _show_sums(sums: batches.Sums) -> dict[str, Any]:
    return {
        "size": sums.size,
        "statuses": dict(sums.statuses),
        "verdicts": dict(sums.verdicts),
        "steps": sums.step_count,
        "escalations": sums.escalation_count,
        "ledger": problems.Ledger.model_validate(sums.ledger),
    }


def show_change(row: ChangeRow, root_path: str) -> problems.Change:
    """Turn a change's row into a response, with links below the API's root path."""
    return problems.Change(
        problem_id=row.problem_id,
        status=row.status,
        changed_at=row.changed_at,
        links={"problem": f"{root_path}/v1/problems/{row.problem_id}"},
    )


def show_policy_version(row: PolicyVersionRow) -> policies.PolicyVersion:
    """Turn a policy version's row into a response."""
    return policies.PolicyVersion(
        policy=row.policy,
        version=row.version,
        digest=row.digest,
        models=policies.FittedOn(small=row.small_model, large=row.large_model, prm=row.prm_model),
        card=row.card,
        is_default=row.is_default,
        registered_at=row.registered_at,
        retired_at=row.retired_at,
    )


def show_policy_artefact(artefact: EncodedArtefact) -> policies.PolicyArtefact:
    """Turn a stored artefact into a response."""
    return policies.PolicyArtefact(card=json.loads(artefact.card), arrays=base64.b64encode(artefact.arrays))


def show_step(row: StepRow) -> record.Step:
    """Turn a step's row into a response."""
    return record.Step.model_validate(row)


def show_decision(row: DecisionRow | AuditRow, shadows: Sequence[ShadowDecisionRow]) -> record.Decision:
    """Turn a decision's row into a response, with what shadows decided beside this and other decisions."""
    return record.Decision(
        number=row.number,
        step=row.step,
        epoch=row.epoch,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        policy=_show_deciding(row),
        observation=record.Observation.model_validate(read_observation(row.observation), from_attributes=True),
        action=row.action,
        reason=row.reason,
        value=row.value,
        compared_with=row.compared_with,
        numbers=row.numbers,
        propensity=row.propensity,
        draft=_show_draft(row),
        scoring=_show_scoring(row),
        shadows=[_show_shadow_decision(each) for each in shadows if each.number == row.number],
    )


def show_audit(row: AuditRow, shadows: Sequence[ShadowDecisionRow]) -> record.AuditEntry:
    """Turn a row of the audit into a response."""
    return record.AuditEntry(
        policy_parameters=row.policy_parameters,
        policy_wrappers=row.policy_wrappers,
        decision=show_decision(row, shadows),
        accepted_step=_show_accepted_step(row),
    )


def _show_deciding(row: DecisionRow | AuditRow | ShadowDecisionRow) -> record.DecidingPolicy:
    return record.DecidingPolicy(
        name=row.policy,
        revision=row.policy_revision,
        parameters_digest=row.policy_digest,
        version=row.policy_version,
    )


def _show_shadow_decision(row: ShadowDecisionRow) -> record.ShadowDecision:
    return record.ShadowDecision(
        shadow=row.shadow,
        policy=_show_deciding(row),
        action=row.action,
        reason=row.reason,
        value=row.value,
        compared_with=row.compared_with,
        numbers=row.numbers,
        propensity=row.propensity,
        agrees=row.agrees,
        skipped=row.skipped,
        detail=row.detail,
    )


def _show_draft(row: DecisionRow | AuditRow) -> record.Draft | None:
    if row.draft_id is None:
        return None
    return record.Draft(
        id=row.draft_id,
        prefix_digest=row.draft_prefix_digest,
        text=row.draft_text,
        finish=row.draft_finish,
        tokens=row.draft_tokens,
        estimated_tokens=row.draft_estimated_tokens or 0,
        prompt_tokens=row.draft_prompt_tokens,
        cached_tokens=row.draft_cached_tokens,
        model=row.draft_model,
        worker=row.draft_worker,
        waited_ms=row.draft_waited_ms,
        worked_ms=row.draft_worked_ms,
    )


def _show_scoring(row: DecisionRow | AuditRow) -> record.Scoring | None:
    if row.prm_model is None:
        return None
    return record.Scoring(
        model=row.prm_model,
        worker=row.prm_worker,
        tokens=row.prm_tokens,
        estimated_tokens=row.prm_estimated_tokens or 0,
        waited_ms=row.prm_waited_ms,
        worked_ms=row.prm_worked_ms,
    )


def _show_accepted_step(row: AuditRow) -> record.Step | None:
    if row.step_author is None:
        return None
    return record.Step(
        step=row.step,
        author=row.step_author,
        text=row.step_text,
        finish=row.step_finish,
        tokens=row.step_tokens,
        estimated_tokens=row.step_estimated_tokens,
        score=row.step_score,
        model=row.step_model,
        worker=row.step_worker,
        waited_ms=row.step_waited_ms,
        worked_ms=row.step_worked_ms,
        accepted_at=row.step_accepted_at,
    )
