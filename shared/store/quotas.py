"""The limits of tenants that the API keeps: requests of a minute, and queued problems."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    Uuid,
    bindparam,
    case,
    column,
    extract,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.errors import PermanentError, RetryableError
from shared.store.access_tables import RequestCount, TenantRow
from shared.store.tables import Problem

MINUTE_S: Final = 60

_BACKLOG_LOCK: Final = 0x7472_6271
"""Class of the advisory locks, one for each tenant with a limit: its submissions take turns."""


class BacklogFull(RetryableError):
    """As many of the tenant's problems are queued as may be; submit again when some of them have started."""

    code = "backlog_full"
    retry_after_s = 30
    """Seconds after which a client may try again: problems take that long to start, rather than a moment."""


class LargerThanBacklog(PermanentError):
    """The batch has more problems than the tenant may have queued; submit several smaller ones."""

    code = "batch_too_large"


class Counted(NamedTuple):
    """Requests of a tenant in one minute."""

    tenant_id: UUID
    minute: int
    """Number of the minute, counted from 1970."""
    requests: int


class Totals(NamedTuple):
    """What all processes have counted."""

    counts: list[Counted]
    now_s: float
    """The database's time, in seconds since 1970."""


def check_backlog(session: Session, tenant_id: UUID, *, adding: int, max_queued: int | None) -> int | None:
    """Check, before problems are inserted, that they fit into the queue of their tenant as it is now.

    Args:
        session: The session.
        tenant_id: The tenant.
        adding: Number of problems.
        max_queued: Limit of tenants that have none; `None` for no limit.

    Returns:
        The tenant's limit, for `hold_backlog`; `None` for no limit.

    Raises:
        BacklogFull: They do not fit now.
        LargerThanBacklog: They never will.
    """
    own = session.scalar(select(TenantRow.max_queued).where(TenantRow.id == tenant_id))
    limit = max_queued if own is None else own
    if limit is None:
        return None
    if adding > limit:
        raise LargerThanBacklog(
            f"The batch has {adding} problems, and the tenant may have {limit} queued; submit several smaller ones."
        )
    if _count_queued(session, tenant_id, most=limit - adding + 1) + adding > limit:
        raise BacklogFull(
            f"The tenant may have {limit} problems queued, and {adding} more would exceed that; submit again when "
            "some have started."
        )
    return limit


def hold_backlog(session: Session, tenant_id: UUID, *, limit: int | None) -> None:
    """Check, after problems were inserted, that the limit holds, also if others insert at the same time.

    Submissions of the tenant take turns from here to the end of the transaction, so call it last: a large batch is
    inserted for seconds, in which others would wait.

    Raises:
        BacklogFull: Others were faster.
    """
    if limit is None:
        return
    session.execute(select(func.pg_advisory_xact_lock(_BACKLOG_LOCK, func.hashtext(str(tenant_id)))))
    if _count_queued(session, tenant_id, most=limit + 1) > limit:
        raise BacklogFull


def _count_queued(session: Session, tenant_id: UUID, *, most: int) -> int:
    """Count queued problems of a tenant, and no more than some."""
    # The literal, because an index of queued problems has this condition.
    queued = select(Problem.id).where(Problem.tenant_id == tenant_id, Problem.status == _QUEUED)
    return session.scalar(select(func.count()).select_from(queued.limit(most).subquery())) or 0


def add_requests(connection: Connection, counted: Iterable[Counted]) -> Totals:
    """Add what a process has counted, and return what all have; a count of an earlier minute is dropped."""
    rows = sorted(counted)
    parameters = {
        "tenants": [each.tenant_id for each in rows],
        "minutes": [datetime.fromtimestamp(each.minute * MINUTE_S, UTC) for each in rows],
        "requests": [each.requests for each in rows],
    }
    totals = connection.execute(_ADD_REQUESTS, parameters).all()
    now_s = connection.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one()
    counts = [Counted(each.tenant_id, int(each.minute_s) // MINUTE_S, each.requests) for each in totals]
    return Totals(counts, float(now_s))


_QUEUED: ColumnElement[str] = literal_column("'queued'")
_COUNTED = (
    func.unnest(
        bindparam("tenants", type_=ARRAY(Uuid())),
        bindparam("minutes", type_=ARRAY(DateTime(timezone=True))),
        bindparam("requests", type_=ARRAY(Integer())),
    )
    .table_valued(column("tenant_id", Uuid()), column("minute", DateTime(timezone=True)), column("requests", Integer()))
    .render_derived(name="counted")
)
_NEW = insert(RequestCount).from_select(["tenant_id", "minute", "requests"], select(*_COUNTED.c))
_ADD_REQUESTS = _NEW.on_conflict_do_update(
    index_elements=["tenant_id"],
    set_={
        "minute": func.greatest(RequestCount.minute, _NEW.excluded.minute),
        "requests": case(
            (RequestCount.minute == _NEW.excluded.minute, RequestCount.requests + _NEW.excluded.requests),
            (RequestCount.minute < _NEW.excluded.minute, _NEW.excluded.requests),
            else_=RequestCount.requests,
        ),
    },
).returning(RequestCount.tenant_id, RequestCount.requests, extract("epoch", RequestCount.minute).label("minute_s"))
