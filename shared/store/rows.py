"""The mapping between rows and values of the domain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter

from shared.domain.absences import Absence
from shared.domain.decisions import Decision, DecisionRecord, Observation
from shared.domain.drafts import Finish, ScoredDraft
from shared.domain.ledger import Ledger
from shared.domain.options import Bridging, Options, PolicyChoice, Wrappers
from shared.domain.roles import Author
from shared.domain.shadows import Shadow, ShadowRecord, Skipped
from shared.domain.status import Failure, Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import extend_digest, prefix_digest
from shared.domain.verdict import Verdict
from shared.machine.state import State, StepRequest, needed_roles
from shared.store.known_steps import NOTHING, Known, join_steps
from shared.store.port import LockedProblem

LEDGER_COLUMNS: Final = tuple(each.name for each in fields(Ledger))

_STEP_FIELDS: Final = tuple(each.name for each in fields(Step))
STEP_COLUMNS: Final = tuple("step" if name == "index" else name for name in _STEP_FIELDS)

_OPTIONS = TypeAdapter(Options)
_WRAPPERS = TypeAdapter(Wrappers)
_CHOICE = TypeAdapter(PolicyChoice)
_REQUEST = TypeAdapter(StepRequest | None)
_PENDING = TypeAdapter(tuple[ScoredDraft, ...])
_ABSENCES = TypeAdapter(tuple[Absence, ...])
_OBSERVATION = TypeAdapter(Observation)


def options_values(options: Options) -> dict[str, Any]:
    """Turn options into JSON, without the deadline, which has a column, and without the default of `bridging`."""
    values: dict[str, Any] = _OPTIONS.dump_python(options, mode="json")
    del values["deadline_at"]
    if options.bridging == Bridging():
        del values["bridging"]
    return values


def read_options(values: Mapping[str, Any], deadline_at: datetime | None) -> Options:
    """Read options from what `options_values` returned."""
    return replace(_OPTIONS.validate_python(dict(values)), deadline_at=deadline_at)


def choice_values(choice: PolicyChoice) -> dict[str, Any]:
    """Turn the choice of a shadow into JSON."""
    return {**asdict(choice), "parameters": dict(choice.parameters)}


def read_shadow(values: Any) -> Shadow:
    """Read a shadow from what `choice_values` returned.

    What this version cannot decode becomes a defect of the shadow. It never becomes one of the problem.
    """
    try:
        return Shadow(policy=_CHOICE.validate_python(values))
    except ValueError as error:
        name = str(values.get("name")) if isinstance(values, dict) else ""
        return Shadow(policy=PolicyChoice(name=name, revision=0, parameters={}), defect=type(error).__name__)


def read_observation(values: Mapping[str, Any]) -> Observation:
    """Read what a decision's row holds; fields that its version did not know get their defaults."""
    return _OBSERVATION.validate_python(dict(values))


def read_problem(
    row: Mapping[str, Any], steps: Sequence[Sequence[Any]], booked: frozenset[UUID], *, known: Known = NOTHING
) -> LockedProblem:
    """Read a problem from its row, what is known of its steps, and the rows of others, which hold `STEP_COLUMNS`.

    A row that this version cannot decode becomes a problem with a `defect`.
    """
    choice = PolicyChoice(
        name=row["policy"],
        revision=row["policy_revision"],
        parameters=row["policy_parameters"],
        version=row["policy_version"],
    )
    times = {"submitted_at": row["created_at"], "cancel_requested_at": row["cancel_requested_at"]}
    try:
        state = _read_state(row, steps, booked, known)
        choice = replace(choice, wrappers=_WRAPPERS.validate_python(row["policy_wrappers"]))
    except (ValueError, TypeError, KeyError) as error:
        state = _salvage(row, steps, booked, known)
        return LockedProblem(state=state, policy=choice, defect=type(error).__name__, **times)
    shadows = tuple(read_shadow(each) for each in row["shadows"])
    return LockedProblem(state=state, policy=choice, shadows=shadows, **times)


def problem_values(state: State) -> dict[str, Any]:
    """Turn a state into the columns of the problem's row that change."""
    ledger, failure = state.ledger, state.failure
    return {
        "problem_id": state.problem_id,
        "status": state.status,
        "epoch": state.epoch,
        # Every step writes a version of the row, so what has its default is left out.
        "request": None if state.request is None else _REQUEST.dump_json(state.request, exclude_defaults=True).decode(),
        "request_count": state.request_count,
        "oldest_request": state.oldest_request,
        "attempts": state.attempts,
        "pending": _PENDING.dump_json(state.pending).decode() if state.pending else "[]",
        "due_at": state.due_at,
        "absences": json.dumps(_absence_values(state.absences)) if state.absences else "{}",
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "step_count": len(state.steps),
        "escalation_count": state.escalation_count,
        "decision_count": state.decision_count,
        "stop_reason": state.stop_reason,
        "failure_code": failure and failure.code,
        "failure_detail": failure and failure.detail,
        "answer": state.answer,
        "verdict": state.verdict,
        **{name: getattr(ledger, name) for name in LEDGER_COLUMNS},
    }


def _absence_values(absences: tuple[Absence, ...]) -> dict[str, Any]:
    """Turn absences into JSON by role, so that statements can compare roles."""
    return {each.pop("role"): each for each in _ABSENCES.dump_python(absences, mode="json")}


def read_absences(values: Mapping[str, Any]) -> tuple[Absence, ...]:
    """Read the roles that a problem knows to be away."""
    if not values:
        return ()
    return _ABSENCES.validate_python([{"role": role, **values[role]} for role in sorted(values)])


def read_waits_for(row: Any) -> tuple[Absence, ...]:
    """Read the roles that a problem waits for, from its row as an object."""
    if not row.absences or row.status != Status.RUNNING:
        return ()
    needed = needed_roles(_REQUEST.validate_python(row.request), read_options(row.options, None).plan)
    return tuple(each for each in read_absences(row.absences) if each.role in needed)


def step_values(problem_id: UUID, step: Step) -> dict[str, Any]:
    """Turn a step into a row."""
    values = {name: getattr(step, name) for name in _STEP_FIELDS}
    return {"problem_id": problem_id, "step": values.pop("index"), **values}


def decision_values(problem_id: UUID, record: DecisionRecord) -> dict[str, Any]:
    """Turn a decision into a row."""
    decision, draft, scoring = record.decision, record.draft, record.scoring
    return {
        "problem_id": problem_id,
        "number": record.number,
        "decided_at": record.decided_at,
        "step": record.step,
        "epoch": record.epoch,
        "decided_by": record.decided_by,
        "policy": record.policy.name,
        "policy_revision": record.policy.revision,
        "policy_digest": record.policy.parameters_digest,
        "policy_version": record.policy.version,
        "action": decision.action,
        "reason": decision.reason,
        "value": decision.value,
        "compared_with": decision.compared_with,
        "numbers": json.dumps(dict(decision.numbers)),
        "propensity": decision.propensity,
        "observation": _OBSERVATION.dump_json(record.observation).decode(),
        "draft_id": draft and draft.id,
        "draft_text": draft and draft.text,
        "draft_finish": draft and draft.finish,
        "draft_prefix_digest": draft and draft.prefix_digest,
        "draft_tokens": draft and draft.tokens,
        "draft_estimated_tokens": draft and draft.estimated_tokens,
        "draft_prompt_tokens": draft and draft.prompt_tokens,
        "draft_cached_tokens": draft and draft.cached_tokens,
        "draft_model": draft and draft.model,
        "draft_worker": draft and draft.worker,
        "draft_waited_ms": draft and draft.waited_ms,
        "draft_worked_ms": draft and draft.worked_ms,
        "prm_model": scoring and scoring.model,
        "prm_worker": scoring and scoring.worker,
        "prm_tokens": scoring and scoring.tokens,
        "prm_estimated_tokens": scoring and scoring.estimated_tokens,
        "prm_waited_ms": scoring and scoring.waited_ms,
        "prm_worked_ms": scoring and scoring.worked_ms,
    }


def shadow_decision_values(problem_id: UUID, record: ShadowRecord) -> dict[str, Any]:
    """Turn what a shadow decided into a row."""
    decision = record.outcome if isinstance(record.outcome, Decision) else None
    skipped = record.outcome if isinstance(record.outcome, Skipped) else None
    return {
        "problem_id": problem_id,
        "number": record.number,
        "shadow": record.shadow,
        "decided_at": record.decided_at,
        "policy": record.policy.name,
        "policy_revision": record.policy.revision,
        "policy_digest": record.policy.parameters_digest,
        "policy_version": record.policy.version,
        "action": decision and decision.action,
        "reason": decision and decision.reason,
        "value": decision and decision.value,
        "compared_with": decision and decision.compared_with,
        "numbers": json.dumps(dict(decision.numbers)) if decision else "{}",
        "propensity": decision and decision.propensity,
        "agrees": record.agrees,
        "skipped": skipped and skipped.reason,
        "detail": skipped and skipped.detail,
    }


def _read_state(
    row: Mapping[str, Any], rows_of_steps: Sequence[Sequence[Any]], booked: frozenset[UUID], known: Known
) -> State:
    steps = join_steps(known.steps, _read_steps(rows_of_steps))
    digest = known.digest or prefix_digest(row["question"], ())
    for step in steps[len(known.steps) :]:
        digest = extend_digest(digest, step.text)
    stop_reason, verdict = row["stop_reason"], row["verdict"]
    return State(
        problem_id=row["id"],
        question=row["question"],
        reference=row["reference"],
        options=read_options(row["options"], row["deadline_at"]),
        status=Status(row["status"]),
        steps=steps,
        digest=digest,
        pending=_PENDING.validate_python(row["pending"]) if row["pending"] else (),
        request=_REQUEST.validate_python(row["request"]),
        due_at=row["due_at"],
        absences=read_absences(row["absences"]),
        booked=booked,
        stop_reason=None if stop_reason is None else StopReason(stop_reason),
        verdict=None if verdict is None else Verdict(verdict),
        **_read_plain(row),
    )


def _salvage(
    row: Mapping[str, Any], rows_of_steps: Sequence[Sequence[Any]], booked: frozenset[UUID], known: Known
) -> State:
    """Read what is needed to fail a problem whose row cannot be decoded as a whole."""
    try:
        status = Status(row["status"])
    except ValueError:
        status = Status.RUNNING  # A status of a newer version, so the problem is still to be ended.
    return State(
        problem_id=row["id"],
        question=row["question"],
        reference=row["reference"],
        status=status,
        # As stored: nothing looks into them, but they are counted.
        steps=join_steps(known.steps, [Step(**dict(zip(_STEP_FIELDS, each, strict=True))) for each in rows_of_steps]),
        # As stored, too: a later event of a problem that has ended must not change its result.
        stop_reason=row["stop_reason"],
        verdict=row["verdict"],
        booked=booked,
        **_read_plain(row),
    )


def _read_plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields that any version can read: plain numbers, times and texts."""
    code = row["failure_code"]
    return {
        "failure": None if code is None else Failure(code=code, detail=row["failure_detail"] or ""),
        "answer": row["answer"],
        "finished_at": row["finished_at"],
        "epoch": row["epoch"],
        "decision_count": row["decision_count"],
        "escalation_count": row["escalation_count"],
        "request_count": row["request_count"],
        "oldest_request": row["oldest_request"],
        "attempts": row["attempts"],
        "started_at": row["started_at"],
        "ledger": Ledger(**{name: row[name] for name in LEDGER_COLUMNS}),
    }


def _read_steps(rows: Sequence[Sequence[Any]]) -> list[Step]:
    steps = []
    for row in rows:
        values = dict(zip(_STEP_FIELDS, row, strict=True))
        steps.append(Step(**{**values, "author": Author(values["author"]), "finish": Finish(values["finish"])}))
    return steps
