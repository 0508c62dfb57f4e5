"""Reads what was recorded of several problems, for exports; the caller has checked that they are the tenant's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Double, Uuid, any_, bindparam, select
from sqlalchemy.orm import Session

from shared.domain.decisions import Action
from shared.store.tables import DecisionRow, StepRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """An accepted step."""

    problem_id: UUID
    step: int
    author: str
    text: str
    score: float | None
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDraft:
    """A draft that was escalated."""

    problem_id: UUID
    number: int
    """Number of the decision."""
    step: int
    draft_id: UUID
    text: str
    score: float | None
    model: str
    prm_model: str | None
    """The model that scored it; `None` if none did."""


_IDS = any_(bindparam("ids", type_=ARRAY(Uuid())))
_STEPS = (
    select(StepRow.problem_id, StepRow.step, StepRow.author, StepRow.text, StepRow.score, StepRow.model)
    .where(StepRow.problem_id == _IDS)
    .order_by(StepRow.problem_id, StepRow.step)
)
_DRAFTS = (
    select(
        DecisionRow.problem_id,
        DecisionRow.number,
        DecisionRow.step,
        DecisionRow.draft_id,
        DecisionRow.draft_text.label("text"),
        DecisionRow.observation["score"].astext.cast(Double()).label("score"),
        DecisionRow.draft_model.label("model"),
        DecisionRow.prm_model,
    )
    .where(DecisionRow.problem_id == _IDS, DecisionRow.action == Action.ESCALATE, DecisionRow.draft_text.is_not(None))
    .order_by(DecisionRow.problem_id, DecisionRow.number)
)

Recorded = TypeVar("Recorded", RecordedStep, RecordedDraft)


def read_steps(session: Session, problem_ids: Sequence[UUID]) -> Mapping[UUID, Sequence[RecordedStep]]:
    """Read the accepted steps of problems, by problem and in the order of the solution."""
    rows = session.execute(_STEPS, {"ids": list(problem_ids)}).mappings()
    return _by_problem(RecordedStep(**row) for row in rows)


def read_escalated_drafts(session: Session, problem_ids: Sequence[UUID]) -> Mapping[UUID, Sequence[RecordedDraft]]:
    """Read the escalated drafts of problems, by problem and in the order of the decisions."""
    rows = session.execute(_DRAFTS, {"ids": list(problem_ids)}).mappings()
    return _by_problem(RecordedDraft(**row) for row in rows)


def _by_problem(rows: Iterable[Recorded]) -> Mapping[UUID, Sequence[Recorded]]:
    found: dict[UUID, list[Recorded]] = {}
    for row in rows:
        found.setdefault(row.problem_id, []).append(row)
    return found
