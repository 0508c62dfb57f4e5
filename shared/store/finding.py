"""Finds problems by conditions, newest first, along indexes and with a bound on the rows that a page reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVarTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, and_, select, true, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.domain.status import Status
from shared.store.cursors import FIRST_ID, LAST_ID, make_cursor, read_id
from shared.store.queries import SHOWN, Page, read_number, read_page
from shared.store.tables import Problem

Ts = TypeVarTuple("Ts")
Looked: TypeAlias = Select[*tuple[Any, ...]]
"""Selects the ids of problems, their places in the listing, and whether they match."""

LOOKED_AT: Final = 2_000
"""Maximum number of problems that one page looks at where no index has a condition. The page may then be short."""

_LOOK: Final = 200
"""Problems that one statement looks at. With a larger limit, the planner would rather read and sort the whole index."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BITS: Final = 80
"""Bits of a UUIDv7 after its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFilter:
    """Conditions on the problems of a listing; all of them hold."""

    statuses: tuple[str, ...] = ()
    """One of these; empty for any."""
    policy: str | None = None
    arm: str | None = None
    batch_id: UUID | None = None
    verdict: str | None = None
    stop_reason: str | None = None
    has_escalations: bool | None = None
    created_after: datetime | None = None
    """Submitted at this time or later, as the id has it, to the millisecond."""
    created_before: datetime | None = None
    """Submitted before this time."""


def list_problems(
    session: Session, tenant_id: UUID, wanted: ProblemFilter, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List problems, newest first. New submissions do not shift the pages.

    A page has fewer problems than the limit, or none, if `LOOKED_AT` problems were looked at; its cursor leads on.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    if wanted.batch_id is not None:
        return _list_batch_backwards(session, tenant_id, wanted, wanted.batch_id, limit=limit, cursor=cursor)
    first = _first_id_at(wanted.created_before, otherwise=LAST_ID)
    if cursor is not None:
        first = min(first, read_id("problems", cursor))
    statuses, conditions = _statuses(wanted), _without_index(wanted)
    if not statuses:
        return Page((), None)
    if len(statuses) == 1 and not conditions:
        query: Select[Problem] = _walk(SHOWN, tenant_id, wanted, statuses[0], first)
        return read_page(session, query, limit, lambda last: make_cursor("problems", str(last.id)))
    looked = select(Problem.id, Problem.id.label("place"), _all_hold(conditions))

    def look(before: UUID | None, count: int) -> Looked:
        return _merged([_walk(looked, tenant_id, wanted, each, before or first) for each in statuses], count)

    return _look(session, look, "problems", portion=_LOOK if conditions else limit + 1, limit=limit)


def list_batch_problems(
    session: Session, tenant_id: UUID, batch_id: UUID, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List the problems of a batch in the order of their submission.

    Raises:
        BadCursor: The cursor is not one of this listing.
    """
    listing = f"batch {batch_id}"
    query = SHOWN.where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id).order_by(Problem.batch_index)
    if cursor is not None:
        query = query.where(Problem.batch_index > read_number(listing, cursor))
    return read_page(session, query, limit, lambda last: make_cursor(listing, _index(last)))


def _list_batch_backwards(
    session: Session, tenant_id: UUID, wanted: ProblemFilter, batch_id: UUID, *, limit: int, cursor: str | None
) -> Page[Problem]:
    """List problems of a batch, newest first: by their index, whose order is the one of their ids."""
    listing = f"problems of {batch_id}"
    conditions = _of_batch(wanted)
    first = None if cursor is None else read_number(listing, cursor)

    def walk(selected: Select[*Ts], before: int | None) -> Select[*Ts]:
        query = selected.where(Problem.tenant_id == tenant_id, Problem.batch_id == batch_id)
        if before is not None:
            query = query.where(Problem.batch_index < before)
        return query.order_by(Problem.batch_index.desc())

    if not conditions:
        return read_page(session, walk(SHOWN, first), limit, lambda last: make_cursor(listing, _index(last)))
    looked = select(Problem.id, Problem.batch_index.label("place"), _all_hold(conditions))

    def look(before: int | None, count: int) -> Looked:
        return walk(looked, first if before is None else before).limit(count)

    return _look(session, look, listing, portion=_LOOK, limit=limit)


def _statuses(wanted: ProblemFilter) -> Sequence[str | None]:
    """Return the statuses along whose indexes to look; `[None]` for all of them."""
    if wanted.stop_reason is not None:  # Only these have one.
        return [Status.SUCCEEDED] if Status.SUCCEEDED in (wanted.statuses or Status) else []
    chosen = sorted(set(wanted.statuses))
    return [None] if len(chosen) in (0, len(Status)) else chosen


def _without_index(wanted: ProblemFilter) -> list[ColumnElement[bool]]:
    """Return the conditions that no index has: their columns change with steps, or are rarely asked for."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.verdict is not None:
        conditions.append(Problem.verdict == wanted.verdict)
    if wanted.stop_reason is not None:
        conditions.append(Problem.stop_reason == wanted.stop_reason)
    if wanted.has_escalations is not None:
        conditions.append(Problem.escalation_count > 0 if wanted.has_escalations else Problem.escalation_count == 0)
    return conditions


def _of_batch(wanted: ProblemFilter) -> list[ColumnElement[bool]]:
    """Return the conditions beside the batch."""
    conditions = _without_index(wanted)
    if wanted.statuses:
        conditions.append(Problem.status.in_(wanted.statuses))
    conditions += [
        column == value
        for column, value in ((Problem.policy, wanted.policy), (Problem.arm, wanted.arm))
        if value is not None
    ]
    if wanted.created_after is not None:
        conditions.append(Problem.id >= _first_id_at(wanted.created_after, otherwise=FIRST_ID))
    if wanted.created_before is not None:
        conditions.append(Problem.id < _first_id_at(wanted.created_before, otherwise=LAST_ID))
    return conditions


def _all_hold(conditions: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    return and_(true(), *conditions).label("matches")


def _walk(
    selected: Select[*Ts], tenant_id: UUID, wanted: ProblemFilter, status: str | None, before: UUID
) -> Select[*Ts]:
    """Select the rows of one status, or of all, in descending order of their ids, along the index that fits."""
    # The indexes of arms end with the policy: it is compared there, without a look at the rows.
    first = (Problem.policy, wanted.policy) if wanted.arm is None else (Problem.arm, wanted.arm)
    shared = [(column, value) for column, value in (first, (Problem.status, status)) if value is not None]
    after = _first_id_at(wanted.created_after, otherwise=FIRST_ID)
    query = _between(selected, (Problem.tenant_id, tenant_id), *shared, after=after, before=before)
    if wanted.arm is not None:
        # The planner does not conclude from ranges that the arm is known, as its indexes require.
        query = query.where(Problem.arm.is_not(None))
        if wanted.policy is not None:
            query = query.where(Problem.policy == wanted.policy)
    return query


def _between(
    query: Select[*Ts], *shared: tuple[InstrumentedAttribute[Any], object], after: UUID, before: UUID
) -> Select[*Ts]:
    """Select the rows of an index that share all values and have an id in a range, in descending order.

    Ranges rather than equality: with equality the planner knows that the order is the one of the ids, and may read the
    primary key backwards through any number of rows of other tenants and statuses.
    """
    columns = [*(column for column, _ in shared), Problem.id]
    values = [value for _, value in shared]
    return query.where(tuple_(*columns) < tuple_(*values, before), tuple_(*columns) >= tuple_(*values, after)).order_by(
        *(column.desc() for column in columns)
    )


def _merged(walks: Sequence[Looked], count: int) -> Looked:
    """Select the first rows of several walks, as if they were one."""
    if len(walks) == 1:
        return walks[0].limit(count)
    each = union_all(*(walk.limit(count).subquery().select() for walk in walks)).subquery()
    return select(each).order_by(each.c.place.desc()).limit(count)


def _look(
    session: Session, look: Callable[[Any, int], Looked], listing: str, *, portion: int, limit: int
) -> Page[Problem]:
    """Read the page of those rows that match, looking at `LOOKED_AT` at most.

    Args:
        session: The session.
        look: Selects a number of rows after a place, or from the beginning of the page.
        listing: Name of the listing in its cursors.
        portion: Number of rows that one statement looks at.
        limit: Maximum number of rows of the page.
    """
    found: list[Row[Any]] = []
    place, left = None, LOOKED_AT
    while left > 0 and len(found) <= limit:
        rows = session.execute(look(place, min(portion, left))).all()
        found += [row for row in rows if row.matches]
        if len(rows) < min(portion, left):
            place = None
            break
        place, left = rows[-1].place, left - len(rows)
    shown = found[:limit]
    problems = SHOWN.where(Problem.id.in_([row.id for row in shown])).order_by(Problem.id.desc())
    items = session.scalars(problems).all() if shown else ()
    if len(found) > limit:
        place = shown[-1].place
    return Page(items, None if place is None else _cursor(listing, place))


def _cursor(listing: str, place: UUID | int) -> str:
    return make_cursor(listing, place if isinstance(place, int) else str(place))


def _first_id_at(time: datetime | None, *, otherwise: UUID) -> UUID:
    """Return the least id of a problem that was submitted at a time, or `otherwise` without a time."""
    if time is None:
        return otherwise
    milliseconds = (time - _EPOCH).total_seconds() * 1000
    return UUID(int=max(int(milliseconds), 0) << _RANDOM_BITS)


def _index(problem: Problem) -> int:
    assert problem.batch_index is not None, "the query selects problems of a batch"
    return problem.batch_index
