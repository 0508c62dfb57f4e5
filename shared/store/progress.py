"""Reads what the records of problems have gained since clients last looked: many clients in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Integer, Row, TableValuedAlias, Uuid, any_, bindparam, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session, aliased

from shared.domain.status import Status
from shared.store import queries
from shared.store.shadow_tables import ShadowDecisionRow
from shared.store.tables import DecisionRow, Problem, StepRow

MOST_ROWS: Final = 16
"""Maximum number of decisions, and of steps, that one read returns for a client. It bounds the memory of a client that
reads slowly: rows hold texts of several thousand characters."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the record of a problem: the numbers of the next decision and of the next step."""

    decisions: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.decisions}.{self.steps}"


@dataclass(frozen=True, slots=True)
class Sought:
    """A problem, and the place after which its record is new to a client."""

    problem_id: UUID
    after: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """What a record has gained, as of one moment."""

    rows: Sequence[DecisionRow | StepRow]
    """New decisions and steps in their order: the decisions on a step come before it."""
    shadows: Sequence[ShadowDecisionRow]
    """What shadows decided beside the decisions."""
    is_whole: bool
    """Whether this is all; otherwise the next read finds more."""
    end: Place
    """The end of the record."""
    problem: Problem | None
    """The problem, if it has ended and this is all."""


def find_end(session: Session, tenant_id: UUID, problem_id: UUID) -> Place | None:
    """Find the end of a problem's record; `None` if the tenant has no such problem."""
    query = select(Problem.decision_count, Problem.step_count)
    row = session.execute(query.where(Problem.tenant_id == tenant_id, Problem.id == problem_id)).one_or_none()
    return None if row is None else Place(*row)


def read_gained(session: Session, sought: Sequence[Sought]) -> list[Gained | None]:
    """Read what records have gained, for clients that may follow the same problem from different places.

    The session must be a snapshot (`Database.snapshot`): otherwise a problem could have ended before its last step.

    Returns:
        One result for each, in the same order; `None` for a problem that does not exist.
    """
    heads = {row.id: row for row in session.execute(_HEADS, {"ids": [each.problem_id for each in sought]})}
    new_decisions = _parameters(sought, [each.after.decisions for each in sought])
    decisions: Mapping[int, list[DecisionRow]] = _by_client(session.execute(_NEW_DECISIONS, new_decisions))
    new_steps = _parameters(sought, [each.after.steps for each in sought])
    steps: Mapping[int, list[StepRow]] = _by_client(session.execute(_NEW_STEPS, new_steps))
    with_shadows = [
        client for client, each in enumerate(sought) if decisions[client] and heads[each.problem_id].has_shadows
    ]
    shadows = _read_shadows(session, sought, decisions, with_shadows) if with_shadows else {}
    gained = [
        _combine(heads.get(each.problem_id), decisions[client], steps[client], shadows.get(client, ()))
        for client, each in enumerate(sought)
    ]
    ended = {head.id for head in heads.values() if head.status in _FINAL}
    wanted = ended & {each.problem_id for each, its in zip(sought, gained, strict=True) if its and its.is_whole}
    problems = queries.read_problems(session, wanted) if wanted else {}
    return [
        replace(its, problem=problems.get(each.problem_id)) if its and its.is_whole else its
        for each, its in zip(sought, gained, strict=True)
    ]


def _combine(
    head: Row[UUID, str, int, int, bool] | None,
    decisions: Sequence[DecisionRow],
    steps: Sequence[StepRow],
    shadows: Sequence[ShadowDecisionRow],
) -> Gained | None:
    if head is None:
        return None
    is_whole = len(decisions) < MOST_ROWS and len(steps) < MOST_ROWS
    end = Place(head.decision_count, head.step_count)
    return Gained(rows=_in_order(decisions, steps), shadows=shadows, is_whole=is_whole, end=end, problem=None)


def _in_order(decisions: Sequence[DecisionRow], steps: Sequence[StepRow]) -> Sequence[DecisionRow | StepRow]:
    """Order rows as they were written, without those before which rows are missing that were not read."""
    rows: list[DecisionRow | StepRow] = [*decisions, *steps]
    if len(decisions) == MOST_ROWS:  # There may be more decisions on this step.
        rows = [*decisions, *(each for each in steps if each.step < decisions[-1].step)]
    if len(steps) == MOST_ROWS:
        rows = [each for each in rows if each.step <= steps[-1].step + isinstance(each, DecisionRow)]
    return sorted(rows, key=lambda each: (each.step, isinstance(each, StepRow)))


def _read_shadows(
    session: Session, sought: Sequence[Sought], decisions: Mapping[int, Sequence[DecisionRow]], clients: Sequence[int]
) -> Mapping[int, Sequence[ShadowDecisionRow]]:
    """Read what shadows decided beside the decisions of some clients, by client."""
    parameters = {
        "clients": clients,
        "ids": [sought[client].problem_id for client in clients],
        "first": [decisions[client][0].number for client in clients],
        "last": [decisions[client][-1].number for client in clients],
    }
    return _by_client(session.execute(_SHADOWS, parameters))


def _parameters(sought: Sequence[Sought], first: Sequence[int]) -> Mapping[str, Sequence[Any]]:
    return {"clients": [*range(len(sought))], "ids": [each.problem_id for each in sought], "first": first}


def _by_client(rows: Iterable[tuple[int, T]]) -> defaultdict[int, list[T]]:
    found = defaultdict[int, list[T]](list)
    for client, row in rows:
        found[client].append(row)
    return found


def _clients(*columns: str) -> TableValuedAlias:
    """Make a table of clients from arrays, so that one statement serves any number of them."""
    arrays = [bindparam("clients", type_=ARRAY(Integer())), bindparam("ids", type_=ARRAY(Uuid()))]
    arrays += [bindparam(each, type_=ARRAY(Integer())) for each in columns]
    return func.unnest(*arrays).table_valued("client", "problem_id", *columns).render_derived(name="clients")


_CLIENTS = _clients("first")
_OF_SHADOWS = _clients("first", "last")
# Each client's rows by the primary key, in its order.
_DECISION = aliased(
    DecisionRow,
    select(DecisionRow)
    .where(DecisionRow.problem_id == _CLIENTS.c.problem_id, DecisionRow.number >= _CLIENTS.c.first)
    .order_by(DecisionRow.number)
    .limit(MOST_ROWS)
    .lateral("new_decisions"),
)
_STEP = aliased(
    StepRow,
    select(StepRow)
    .where(StepRow.problem_id == _CLIENTS.c.problem_id, StepRow.step >= _CLIENTS.c.first)
    .order_by(StepRow.step)
    .limit(MOST_ROWS)
    .lateral("new_steps"),
)
_NEW_DECISIONS = select(_CLIENTS.c.client, _DECISION).join_from(_CLIENTS, _DECISION, true())
_NEW_STEPS = select(_CLIENTS.c.client, _STEP).join_from(_CLIENTS, _STEP, true())
_SHADOWS = (
    select(_OF_SHADOWS.c.client, ShadowDecisionRow)
    .join_from(_OF_SHADOWS, ShadowDecisionRow, ShadowDecisionRow.problem_id == _OF_SHADOWS.c.problem_id)
    .where(ShadowDecisionRow.number.between(_OF_SHADOWS.c.first, _OF_SHADOWS.c.last))
    .order_by(_OF_SHADOWS.c.client, ShadowDecisionRow.number, ShadowDecisionRow.shadow)
)
_HEADS = select(
    Problem.id,
    Problem.status,
    Problem.decision_count,
    Problem.step_count,
    (Problem.shadows != literal([], JSONB())).label("has_shadows"),
).where(Problem.id == any_(bindparam("ids", type_=ARRAY(Uuid()))))
_FINAL: Final = frozenset(status.value for status in Status if status.is_final)
