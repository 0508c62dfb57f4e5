"""What an export reads at a time: some problems, and what was recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from uuid import UUID

from services.api.presenting import show_problems
from services.api.schemas.problems import Problem
from shared.store import records
from shared.store.database import Database
from shared.store.finding import ProblemFilter, list_problems
from shared.store.records import RecordedDraft, RecordedStep

PROBLEMS: Final = 200
"""Problems that an export without their record reads in one transaction."""

RECORDED_PROBLEMS: Final = 25
"""Problems that an export with their record reads in one transaction. One has up to 200 steps and as many drafts."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Some problems of an export."""

    problems: Sequence[Problem]
    next_cursor: str | None
    """Where the next portion begins; `None` on the last one."""
    steps: Mapping[UUID, Sequence[RecordedStep]] = field(default_factory=dict)
    """Accepted steps by problem, in the order of the solution; only of exports with records."""
    drafts: Mapping[UUID, Sequence[RecordedDraft]] = field(default_factory=dict)
    """Escalated drafts by problem, in the order of the decisions; only of exports with records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads the portions of an export, each in a short transaction."""

    database: Database
    tenant_id: UUID
    wanted: ProblemFilter
    root_path: str
    silence_s: float
    has_records: bool

    def read(self, cursor: str | None) -> Portion:
        """Read a portion.

        Raises:
            DatabaseUnavailable, DatabaseBusy: The database does not answer.
        """
        limit = RECORDED_PROBLEMS if self.has_records else PROBLEMS
        with self.database.session() as session:
            page = list_problems(session, self.tenant_id, self.wanted, limit=limit, cursor=cursor)
            shown = show_problems(session, page.items, self.root_path, silence_s=self.silence_s)
            portion = partial(Portion, shown, page.next_cursor)
            # What has not ended is incomplete, and what was erased has no text.
            ids = [each.id for each in page.items if each.finished_at is not None and each.erased_at is None]
            if not self.has_records or not ids:
                return portion()
            return portion(records.read_steps(session, ids), records.read_escalated_drafts(session, ids))
