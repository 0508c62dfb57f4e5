"""Problems with known answers are read from the database: newest first, each question once, of one tenant."""

from __future__ import annotations

from contextlib import closing
from uuid import UUID

import pytest
from sqlalchemy import text

from evaluation.problem_sources import problems_of_database
from evaluation.problems import UnusableProblems
from shared.settings import Settings
from shared.store import references
from shared.store.database import Database
from shared.store.references import read_references
from shared.store.submissions import submit_problem
from shared.store.tables import DEFAULT_TENANT
from tests.integration.solving import make_submission

pytestmark = pytest.mark.servers

OTHER = UUID(int=7)


def submit(database: Database, question: str, reference: str | None, tenant_id: UUID = DEFAULT_TENANT) -> UUID:
    with database.session() as session:
        submission = make_submission(question, reference=reference)
        return submit_problem(session, tenant_id, submission, None, silence_s=15).id


def test_the_newest_reference_of_each_question_is_read(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"database_url": database_url})
    with closing(Database(database_url)) as database:
        with pytest.raises(UnusableProblems, match="No problem in the database"):
            problems_of_database(settings, count=5)
        submit(database, "A?", "1")
        submit(database, "B?", "2")
        erased = submit(database, "C?", "3")
        submit(database, "A?", "4")
        submit(database, "D?", None)
        submit(database, "E?", "5", OTHER)
        with database.session() as session:
            session.execute(text("UPDATE problems SET erased_at = now() WHERE id = :id"), {"id": erased})
        monkeypatch.setattr(references, "_PAGE", 2)
        with database.session() as session:
            assert list(read_references(session, DEFAULT_TENANT, count=5).items()) == [("A?", "4"), ("B?", "2")]
            assert read_references(session, DEFAULT_TENANT, count=1) == {"A?": "4"}
            assert read_references(session, OTHER, count=5) == {"E?": "5"}
    assert problems_of_database(settings, count=5).problems == [("A?", "4"), ("B?", "2")]
