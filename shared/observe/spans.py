"""The spans of a problem's trace, as values: what each part of the service reports of it.

One problem is one trace. The trace's id is the problem's id, and the id of each span derives from the id of what it
shows, so processes agree on both without passing anything on. Work that is done again has the same span.

Attributes named `openinference.*`, `llm.*`, `decision.*`, `input.*` and `output.*` follow
[OpenInference](https://github.com/Arize-ai/openinference/tree/main/spec), which trace viewers for language models
understand. Our own begin with `trim.`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from shared.domain.decisions import DecisionRecord
from shared.domain.drafts import Draft, Scoring
from shared.domain.ledger import Ledger
from shared.domain.roles import WorkerRole
from shared.messages import Command, GenerateSteps, ScoreSteps, derive_id

Attributes = Mapping[str, str | bool | int | float | Sequence[str] | Sequence[float]]


class Kind(StrEnum):
    """What a span shows, in OpenInference's words."""

    CHAIN = "CHAIN"
    LLM = "LLM"
    EVALUATOR = "EVALUATOR"
    DECISION = "DECISION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span of a problem's trace."""

    name: str
    kind: Kind
    problem_id: UUID
    id: UUID
    """Its last 8 bytes are the span's id."""
    parent_id: UUID | None
    """Id of the span that it belongs to; `None` for the problem's own."""
    started_at: datetime
    ended_at: datetime
    attributes: Attributes = field(default_factory=dict)
    texts: Attributes = field(default_factory=dict)
    """Attributes with words of the question or the models; exported only where the settings allow it."""
    error: str | None = None
    """Code of what went wrong; sentences may hold words of the models."""
    traceparent: str | None = None
    """W3C trace context of the request that caused it, which the span links to."""


def problem(
    problem_id: UUID,
    *,
    status: str,
    reason: str | None,
    failure: str | None,
    policy: str,
    question: str,
    answer: str | None,
    ledger: Ledger,
    submitted_at: datetime,
    ended_at: datetime,
) -> Span:
    """Return the span of a whole problem, from its submission to its end. All others belong to it."""
    costs = {f"trim.ledger.{column}": tokens for column, tokens in asdict(ledger).items()}
    return Span(
        name="problem",
        kind=Kind.CHAIN,
        problem_id=problem_id,
        id=problem_id,
        parent_id=None,
        started_at=submitted_at,
        ended_at=ended_at,
        attributes={"trim.status": status, "trim.reason": failure or reason or "", "trim.policy": policy, **costs},
        texts={"input.value": question, "output.value": answer or ""},
        error=failure,
    )


def submission(problem_id: UUID, *, received_at: datetime, stored_at: datetime, traceparent: str | None) -> Span:
    """Return the span of a problem's submission: the api's work on the request."""
    return Span(
        name="submission",
        kind=Kind.CHAIN,
        problem_id=problem_id,
        id=derive_id(problem_id, "span", "submission"),
        parent_id=problem_id,
        started_at=received_at,
        ended_at=stored_at,
        traceparent=traceparent,
    )


def admission(problem_id: UUID, *, submitted_at: datetime, admitted_at: datetime) -> Span:
    """Return the span of a problem's wait for admission."""
    return Span(
        name="wait for admission",
        kind=Kind.CHAIN,
        problem_id=problem_id,
        id=derive_id(problem_id, "span", "admission"),
        parent_id=problem_id,
        started_at=submitted_at,
        ended_at=admitted_at,
    )


def decision(problem_id: UUID, record: DecisionRecord) -> Span:
    """Return the span of a decision: what the policy saw, what it chose, and the numbers that it compared."""
    decided = record.decision
    numbers = {"value": decided.value, "compared_with": decided.compared_with, **decided.numbers}
    return Span(
        name="decision",
        kind=Kind.DECISION,
        problem_id=problem_id,
        id=derive_id(problem_id, "span", "decision", record.number),
        parent_id=problem_id,
        started_at=record.decided_at,
        ended_at=record.decided_at,
        attributes={
            "decision.model_name": record.policy.label,
            "trim.step": record.step,
            "trim.decision": record.number,
            "trim.action": decided.action.value,
            "trim.reason": decided.reason,
            "trim.decided_by": record.decided_by.value,
            "trim.propensity": decided.propensity,
            **{f"trim.{name}": number for name, number in numbers.items() if number is not None},
            "input.value": json.dumps(asdict(record.observation)),
            "input.mime_type": "application/json",
            "output.value": json.dumps({"action": decided.action.value, "reason": decided.reason, **numbers}),
            "output.mime_type": "application/json",
        },
    )


def wait(command: Command, role: WorkerRole, *, taken_at: datetime) -> Span:
    """Return the span of a command's wait in its queue."""
    return Span(
        name=f"wait for {role}",
        kind=Kind.CHAIN,
        problem_id=command.problem_id,
        id=derive_id(command.id, "span", "wait"),
        parent_id=command.problem_id,
        started_at=command.issued_at,
        ended_at=taken_at,
        attributes=_of(command, role),
    )


def work(
    command: Command, role: WorkerRole, *, worker: str, outcome: str, taken_at: datetime, ended_at: datetime
) -> Span:
    """Return the span of a worker's work on a command. Those of the engine's calls belong to it."""
    return Span(
        name=role.value,
        kind=Kind.CHAIN,
        problem_id=command.problem_id,
        id=command.id,
        parent_id=command.problem_id,
        started_at=taken_at,
        ended_at=ended_at,
        attributes={**_of(command, role), "trim.worker": worker, "trim.outcome": outcome},
        error=outcome if outcome.startswith("failed") or outcome == "crashed" else None,
    )


def step(command: GenerateSteps, draft: Draft, *, ended_at: datetime) -> Span:
    """Return the span of one step that an engine wrote."""
    return Span(
        name="step",
        kind=Kind.LLM,
        problem_id=command.problem_id,
        id=draft.id,
        parent_id=command.id,
        started_at=ended_at - timedelta(milliseconds=draft.worked_ms),
        ended_at=ended_at,
        attributes={
            **_of(command, WorkerRole(command.author)),
            "trim.step": draft.index,
            "trim.finish": draft.finish.value,
            "llm.model_name": draft.model,
            "llm.invocation_parameters": json.dumps(asdict(command.sampling)),
            "llm.token_count.prompt": draft.prompt_tokens,
            "llm.token_count.prompt_details.cache_read": draft.cached_tokens,
            "llm.token_count.completion": draft.tokens,
            "llm.token_count.total": draft.prompt_tokens + draft.tokens,
        },
        texts={"input.value": command.question, "output.value": draft.text},
    )


def scores(command: ScoreSteps, values: Sequence[float | None], scoring: Scoring, *, ended_at: datetime) -> Span:
    """Return the span of one call of the PRM."""
    first = command.first_step - command.unscored_steps
    return Span(
        name="scores",
        kind=Kind.EVALUATOR,
        problem_id=command.problem_id,
        id=derive_id(command.id, "span", "scores"),
        parent_id=command.id,
        started_at=ended_at - timedelta(milliseconds=scoring.worked_ms),
        ended_at=ended_at,
        attributes={
            **_of(command, WorkerRole.PRM),
            "llm.model_name": scoring.model,
            "llm.token_count.prompt": scoring.tokens,
            "output.value": json.dumps({str(first + place): value for place, value in enumerate(values)}),
            "output.mime_type": "application/json",
        },
        texts={"input.value": "\n\n".join([command.question, *(draft.text for draft in command.drafts)])},
    )


def _of(command: Command, role: WorkerRole) -> dict[str, str | int]:
    return {
        "trim.role": role.value,
        "trim.command_id": str(command.id),
        "trim.first_step": command.first_step,
        "trim.epoch": command.epoch,
        "trim.request_number": command.request_number,
    }
