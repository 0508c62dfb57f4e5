"""The store in memory behaves as the one in Postgres, and refuses what the database refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from shared.domain.decisions import Decision
from shared.machine.state import new_state
from shared.store.port import Change, SeenProcess
from simulation.store import ConstraintViolated, MemoryStore
from tests.presence_suite import *  # noqa: F403
from tests.store_suite import *  # noqa: F403
from tests.store_suite import NOW, NewProblem, TestedStore, a_decision, a_shadow_record, a_step, lock, save


class Unwritable(frozenset[UUID]):
    """Breaks the transaction that writes it."""

    def __sub__(self, other: object) -> frozenset[UUID]:
        raise TypeError("it breaks")


class InMemory:
    """A store in memory, and what the api would do to it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self._added = 0

    def add(self, problem: NewProblem) -> UUID:
        self._added += 1
        problem_id = UUID(int=self._added)
        state = new_state(
            problem_id=problem_id, question=problem.question, reference=problem.reference, options=problem.options
        )
        self.store.submit(state, problem.policy, shadows=problem.shadows, tenant=problem.tenant_id)
        return problem_id

    def request_cancel(self, problem_id: UUID) -> None:
        self.store.request_cancel(problem_id, now=NOW)

    def shadow_decisions(self, problem_id: UUID) -> Sequence[tuple[int, int, str | None, str | None, bool | None]]:
        found = self.store.shadow_decisions(problem_id)
        return [
            (each.number, each.shadow, each.outcome.action, None, each.agrees)
            if isinstance(each.outcome, Decision)
            else (each.number, each.shadow, None, each.outcome.reason, each.agrees)
            for each in found
        ]

    def processes(self) -> Mapping[str, SeenProcess]:
        return self.store.processes


@pytest.fixture
def tested() -> InMemory:
    return InMemory()


def test_an_id_is_not_booked_twice(tested: TestedStore) -> None:
    problem_id, booked = tested.add(NewProblem()), uuid4()
    save(tested, problem_id, booked=frozenset({booked}))
    with pytest.raises(ConstraintViolated, match="booked twice"):
        save(tested, problem_id, booked=frozenset({booked}))


def test_a_decision_is_not_overwritten(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, decisions=(a_decision(0, 0, None),), decision_count=1)
    with pytest.raises(ConstraintViolated, match="decision"):
        save(tested, problem_id, decisions=(a_decision(0, 1, None),))


def test_a_decision_of_a_shadow_is_not_overwritten(tested: TestedStore) -> None:
    locked = lock(tested, tested.add(NewProblem()))
    change = Change(locked, locked.state.evolve(epoch=1), shadow_decisions=[a_shadow_record(0, 0)])
    for refusal in (nullcontext(), pytest.raises(ConstraintViolated, match="shadow")):
        with refusal, tested.store.begin() as transaction:
            transaction.lock([locked.state.problem_id])
            transaction.save([change])


@pytest.mark.parametrize("steps", [(), (replace(a_step(0), text="Another."), a_step(1)), (a_step(0),)])
def test_a_step_is_rewritten_by_nothing_but_its_score(tested: TestedStore, steps: tuple[object, ...]) -> None:
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, steps=(a_step(0), a_step(1)))
    with pytest.raises(ConstraintViolated, match="step"):
        save(tested, problem_id, steps=steps)


def test_a_problem_is_written_only_while_it_is_locked(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    with tested.store.begin() as transaction:
        locked = transaction.lock([problem_id])[problem_id]
    with pytest.raises(ConstraintViolated, match="not locked"), tested.store.begin() as transaction:
        transaction.save([Change(locked, locked.state.evolve(epoch=1))])


def test_changes_are_passed_on_after_their_commit() -> None:
    committed: list[Change] = []
    store = MemoryStore(on_commit=committed.extend)
    tested = InMemory()
    tested.store = store
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, epoch=1)
    with pytest.raises(TypeError, match="breaks"):
        save(tested, problem_id, epoch=2, booked=Unwritable())
    assert [change.after.epoch for change in committed] == [1]
    assert store.state(problem_id).epoch == 1


def test_a_problem_is_read_with_all_its_decisions(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    first, second = a_decision(0, 0, None), a_decision(1, 0, None)
    save(tested, problem_id, decisions=(first,), decision_count=1)
    save(tested, problem_id, decisions=(second,), decision_count=2)
    assert isinstance(tested, InMemory)
    assert tested.store.state(problem_id).decisions == (first, second)
