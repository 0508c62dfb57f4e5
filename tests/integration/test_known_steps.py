"""What an orchestrator remembers of a problem's steps is what the database holds, whatever others wrote meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from shared.domain.roles import Author
from shared.domain.status import Status
from shared.domain.steps import Step
from shared.domain.text import extend_digest, prefix_digest
from shared.machine.state import State
from shared.store.database import Database
from shared.store.known_steps import OVERHEAD_BYTES, KnownSteps
from shared.store.port import Change
from shared.store.reasoning_state import PostgresStore
from stack.scratch import scratch_database
from tests.integration.solving import empty
from tests.integration.test_stores import TestedPostgres
from tests.store_suite import NewProblem, a_step

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[Database]:
    with scratch_database(postgres_server) as url, closing(Database(url)) as made:
        yield made


@pytest.fixture
def problem_id(database: Database) -> UUID:
    """A problem that runs."""
    empty(database)
    made = TestedPostgres(database).add(NewProblem())
    change(PostgresStore(database), made, status=Status.RUNNING)
    return made


def read(store: PostgresStore, problem_id: UUID) -> State:
    with store.begin() as transaction:
        return transaction.lock([problem_id])[problem_id].state


def change(store: PostgresStore, problem_id: UUID, **changes: object) -> State:
    with store.begin() as transaction:
        locked = transaction.lock([problem_id])[problem_id]
        after = locked.state.evolve(**changes)
        transaction.save([Change(locked, after)])
    return after


def append(store: PostgresStore, problem_id: UUID, *, author: Author = Author.SMALL, score: float | None = 0.5) -> None:
    state = read(store, problem_id)
    index = len(state.steps)
    step = replace(a_step(index, author, score=score), text=f"Step {index} of {uuid4()}.")
    change(store, problem_id, steps=(*state.steps, step), digest=extend_digest(state.digest, step.text))


def check(store: PostgresStore, problem_id: UUID, database: Database) -> tuple[Step, ...]:
    """Check that a store reads what a new one does; return the steps."""
    state, fresh = read(store, problem_id), read(PostgresStore(database), problem_id)
    assert state == fresh
    assert state.digest == prefix_digest(state.question, [step.text for step in state.steps])
    return state.steps


def test_two_orchestrators_append_in_turn(database: Database, problem_id: UUID) -> None:
    first, second = PostgresStore(database), PostgresStore(database)
    for store in (first, second, second, first, first):
        append(store, problem_id)
    for store in (first, second):
        assert len(check(store, problem_id, database)) == 5


def test_a_score_that_another_orchestrator_recorded_is_read(database: Database, problem_id: UUID) -> None:
    first, second = PostgresStore(database), PostgresStore(database)
    for author in (Author.SMALL, Author.LARGE, Author.LARGE):
        append(first, problem_id, author=author, score=0.25 if author is Author.SMALL else None)
    one, two, three = check(second, problem_id, database)
    change(second, problem_id, steps=(one, replace(two, score=0.75), three))
    assert [step.score for step in check(first, problem_id, database)] == [0.25, 0.75, None]
    append(second, problem_id)
    assert [step.score for step in check(first, problem_id, database)] == [0.25, 0.75, None, 0.5]


def test_what_was_rolled_back_is_not_remembered(database: Database, problem_id: UUID) -> None:
    store = PostgresStore(database)
    append(store, problem_id)
    with pytest.raises(ZeroDivisionError), store.begin() as transaction:  # noqa: PT012 - what it rolls back
        locked = transaction.lock([problem_id])[problem_id]
        transaction.save([Change(locked, locked.state.evolve(steps=(*locked.state.steps, a_step(1))))])
        raise ZeroDivisionError
    assert len(check(store, problem_id, database)) == 1


def test_a_server_that_lost_commits_is_believed(database: Database, problem_id: UUID) -> None:
    store = PostgresStore(database)
    for _ in range(3):
        append(store, problem_id)
    lost = PostgresStore(database)
    with database.session() as session:
        connection = session.connection()
        connection.exec_driver_sql("DELETE FROM steps WHERE step >= 1")
        connection.exec_driver_sql("UPDATE problems SET step_count = 1")
    assert len(check(store, problem_id, database)) == 1, "the row says that steps are missing"
    append(lost, problem_id)
    append(lost, problem_id)
    database.engine.dispose()  # The next transaction opens a new connection.
    assert len(check(store, problem_id, database)) == 3


def test_the_problems_that_were_used_longest_ago_are_forgotten(database: Database, problem_id: UUID) -> None:
    store = PostgresStore(database)
    append(store, problem_id)
    state = read(store, problem_id)
    size = 2 * OVERHEAD_BYTES + len(state.steps[0].text)
    others = [state.evolve(problem_id=UUID(int=number)) for number in range(3)]
    known = KnownSteps(max_bytes=2 * size)
    known.keep(others, generation=0)
    assert [len(each.steps) for each in known.find([each.problem_id for each in others])] == [0, 1, 1]
    known.keep([others[1].evolve(status=Status.SUCCEEDED)], generation=0)
    assert [len(each.steps) for each in known.find([each.problem_id for each in others])] == [0, 0, 1]
    known.clear()
    known.keep(others, generation=0)
    assert [len(each.steps) for each in known.find([each.problem_id for each in others])] == [0, 0, 0], "read before"
