"""The stores behave alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

import pytest
from sqlalchemy import select, text

from shared.domain.roles import WorkerRole
from shared.domain.status import Status
from shared.store.cancelling import request_cancel
from shared.store.database import Database
from shared.store.port import SeenProcess, Store
from shared.store.process_table import Process
from shared.store.queries import list_shadow_decisions
from shared.store.reasoning_state import PostgresStore
from shared.store.submissions import Arm, Chosen, Submission, submit_problem
from shared.store.tables import Problem
from stack.scratch import scratch_database
from tests.integration.solving import empty
from tests.presence_suite import *  # noqa: F403
from tests.store_suite import *  # noqa: F403
from tests.store_suite import NOW, SECOND, TENANTS, NewProblem, TestedStore, find_attention, next_queued, run, save

pytestmark = pytest.mark.servers


@dataclass
class TestedPostgres:
    database: Database

    __test__ = False

    @cached_property
    def store(self) -> Store:
        return PostgresStore(self.database)

    def add(self, problem: NewProblem) -> UUID:
        submission = Submission(
            question=problem.question,
            reference=problem.reference,
            arms=(Arm(chosen=Chosen(problem.policy), plan=problem.options.plan),),
            shadows=tuple(Chosen(each.policy) for each in problem.shadows),
            options=problem.options,
        )
        with self.database.session() as session:
            return submit_problem(session, problem.tenant_id, submission, None, silence_s=15).id

    def request_cancel(self, problem_id: UUID) -> None:
        with self.database.session() as session:
            tenant_id = session.scalars(select(Problem.tenant_id).where(Problem.id == problem_id)).one()
            request_cancel(session, tenant_id, problem_id)

    def shadow_decisions(self, problem_id: UUID) -> Sequence[tuple[int, int, str | None, str | None, bool | None]]:
        with self.database.session() as session:
            found = list_shadow_decisions(session, problem_id, range(100))
        return [(each.number, each.shadow, each.action, each.skipped, each.agrees) for each in found]

    def processes(self) -> Mapping[str, SeenProcess]:
        with self.database.session() as session:
            found = session.scalars(select(Process)).all()
        return {
            each.name: SeenProcess(
                each.name,
                role=each.role,
                model=each.model,
                seen_at=each.seen_at,
                unfit=each.unfit,
                clock_ahead_s=each.clock_ahead_s,
            )
            for each in found
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


@contextmanager
def locked(database: Database, *problem_ids: UUID) -> Iterator[None]:
    """Lock problems in another session."""
    with database.session() as session:
        session.execute(select(Problem.id).where(Problem.id.in_(problem_ids)).with_for_update())
        yield


def test_a_locked_problem_at_the_head_of_a_queue_delays_only_itself(database: Database, tested: TestedStore) -> None:
    first, second = (tested.add(NewProblem(tenant_id=TENANTS[0])) for _ in range(2))
    other = tested.add(NewProblem(tenant_id=TENANTS[1]))
    assert next_queued(tested, window=1) == [first]
    with locked(database, first):
        assert next_queued(tested, window=1) == [other]
        assert next_queued(tested, window=3) == [other, second]
    with locked(database, first, other):
        assert next_queued(tested, window=1) == [second]


def test_a_locked_problem_that_needs_attention_delays_only_itself(database: Database, tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(3)]
    for number, each in enumerate(ids):
        run(tested, each, due_at=NOW - (3 - number) * SECOND)
    with locked(database, ids[0]):
        assert [each.problem_id for each in find_attention(tested, limit=1)] == [ids[1]]
        assert [each.problem_id for each in find_attention(tested, limit=2)] == ids[1:]


def test_no_tenant_gets_more_running_problems_than_its_limit(database: Database, tested: TestedStore) -> None:
    with database.begin() as connection:
        row = {"id": TENANTS[0], "name": "bound"}
        connection.execute(text("INSERT INTO tenants (id, name, max_running) VALUES (:id, :name, 2)"), row)
    bound = [tested.add(NewProblem(tenant_id=TENANTS[0])) for _ in range(4)]
    free = [tested.add(NewProblem(tenant_id=TENANTS[1])) for _ in range(3)]
    assert next_queued(tested) == [bound[0], free[0], bound[1], free[1], free[2]]
    run(tested, bound[0])
    assert next_queued(tested) == [free[0], bound[1], free[1], free[2]]
    run(tested, bound[1])
    assert next_queued(tested) == free
    assert next_queued(tested, WorkerRole.LARGE) == free, "also while a role is away"
    limited = TestedPostgres(database)
    limited.__dict__["store"] = PostgresStore(database, max_running=1)
    assert next_queued(limited) == free[:1]
    save(tested, bound[0], status=Status.SUCCEEDED, finished_at=NOW)
    assert next_queued(limited) == [free[0], bound[2]], "its limit is 2, and not the deployment's"
