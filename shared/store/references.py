"""Problems whose answers are known, for measurements and trainings."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.store.tables import Problem

_PAGE: Final = 1000
"""Rows that one statement reads."""


def read_references(session: Session, tenant_id: UUID, *, count: int) -> dict[str, str]:
    """Read the newest questions that were submitted with a reference, whatever became of them.

    Args:
        session: The session.
        tenant_id: The tenant whose problems they are.
        count: Maximum number of different questions.

    Returns:
        The reference of each question, newest first; that of its newest problem.
    """
    found: dict[str, str] = {}
    before = UUID(int=2**128 - 1)
    known = select(Problem.id, Problem.question, Problem.reference).where(
        Problem.tenant_id == tenant_id, Problem.reference.is_not(None), Problem.erased_at.is_(None)
    )
    while len(found) < count:
        page = session.execute(known.where(Problem.id < before).order_by(Problem.id.desc()).limit(_PAGE)).all()
        if not page:
            break
        for row in page:
            if len(found) < count:
                found.setdefault(row.question, row.reference)
        before = page[-1].id
    return found
