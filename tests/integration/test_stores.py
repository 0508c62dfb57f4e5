"""The stores behave alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy import select

from shared.store.database import Database
from shared.store.port import SeenProcess, Store
from shared.store.reasoning_state import PostgresStore
from shared.store.submissions import Submission, request_cancel, submit_problem
from shared.store.tables import Problem, Process
from stack.scratch import scratch_database
from tests.integration.solving import empty
from tests.store_suite import *  # noqa: F403
from tests.store_suite import NewProblem, TestedStore

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class TestedPostgres:
    database: Database

    __test__ = False

    @property
    def store(self) -> Store:
        return PostgresStore(self.database)

    def add(self, problem: NewProblem) -> UUID:
        submission = Submission(
            question=problem.question, reference=problem.reference, policy=problem.policy, options=problem.options
        )
        with self.database.session() as session:
            return submit_problem(session, problem.tenant_id, submission, None).id

    def request_cancel(self, problem_id: UUID) -> None:
        with self.database.session() as session:
            tenant_id = session.scalars(select(Problem.tenant_id).where(Problem.id == problem_id)).one()
            request_cancel(session, tenant_id, problem_id)

    def processes(self) -> Mapping[str, SeenProcess]:
        with self.database.session() as session:
            found = session.scalars(select(Process)).all()
        return {
            each.name: SeenProcess(each.name, role=each.role, model=each.model, seen_at=each.seen_at) for each in found
        }


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def tested(database: Database) -> TestedStore:
    """An empty store."""
    empty(database)
    return TestedPostgres(database)
