"""What every store tells of roles that are away, as tests; the stores are those of `tests/store_suite.py`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from shared.domain.absences import Absence
from shared.domain.fitness import Unfit
from shared.domain.options import Options, Plan
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.machine.state import StepRequest
from shared.store.port import SeenProcess
from tests.store_suite import NOW, SECOND, NewProblem, TestedStore, lock, save

SMALL, LARGE, PRM = WorkerRole.SMALL, WorkerRole.LARGE, WorkerRole.PRM


def request_from(author: Author, **changes: bool) -> StepRequest:
    return replace(
        StepRequest(author=author, from_step=0, max_steps=1, number=0, issued_at=NOW, expires_at=NOW), **changes
    )


def untold(tested: TestedStore, *away: WorkerRole, limit: int = 100) -> list[object]:
    with tested.store.begin() as transaction:
        return [each.problem_id for each in transaction.find_untold(away, limit=limit)]


def test_only_workers_are_read_with_what_their_last_heartbeat_said(tested: TestedStore) -> None:
    unfit = Unfit(code="access_denied", detail="The server refuses the key.", since=NOW)
    small = SeenProcess("small-0", role="small", model="b", seen_at=NOW, unfit=unfit, clock_ahead_s=-1.5)
    prm = SeenProcess("prm-0", role="prm", model=None, seen_at=NOW)
    broker = SeenProcess("broker", role="broker", model=None, seen_at=NOW)
    with tested.store.begin() as transaction:
        transaction.record_processes([small, broker, prm])
    with tested.store.begin() as transaction:
        assert transaction.workers() == [prm, small]


@pytest.mark.parametrize(
    ("request_", "plan", "needed"),
    [
        (request_from(Author.SMALL), Plan(), {SMALL, PRM}),
        (request_from(Author.SMALL), Plan(scores=False), {SMALL}),
        (request_from(Author.SMALL, skips_prm=True), Plan(), {SMALL}),
        (request_from(Author.LARGE), Plan(), {LARGE}),
        (None, Plan(), {PRM}),
        (None, Plan(scores=False), set()),
    ],
)
def test_running_problems_that_need_a_role_are_found_until_they_know_that_it_is_away(
    tested: TestedStore, request_: StepRequest | None, plan: Plan, needed: set[WorkerRole]
) -> None:
    problem_id = tested.add(NewProblem(options=Options(plan=plan)))
    assert untold(tested, *WorkerRole) == [], "a queued problem needs nobody"
    save(tested, problem_id, status=Status.RUNNING, request=request_)
    assert {role for role in WorkerRole if untold(tested, role)} == needed
    assert untold(tested) == []
    save(tested, problem_id, absences=tuple(Absence(role=role, since=NOW) for role in sorted(needed)))
    assert untold(tested, *WorkerRole) == []
    save(tested, problem_id, status=Status.SUCCEEDED, request=None, absences=())
    assert untold(tested, *WorkerRole) == []


def test_problems_that_know_a_role_to_be_away_are_found_once_it_is_back(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(3)]
    for each in ids:
        absences = (Absence(role=LARGE, since=NOW), Absence(role=PRM, since=NOW, is_bridged=True))
        save(tested, each, status=Status.RUNNING, request=request_from(Author.LARGE), absences=absences)
    assert untold(tested, LARGE, PRM) == untold(tested, *WorkerRole) == []
    assert untold(tested, LARGE) == untold(tested, PRM) == untold(tested) == ids
    assert untold(tested, limit=2) == ids[:2]
    assert lock(tested, ids[0]).state.waits_for == (Absence(role=LARGE, since=NOW),)


def test_a_problem_without_a_moment_at_which_it_is_due_needs_no_attention(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, status=Status.RUNNING, request=request_from(Author.SMALL), due_at=None)
    with tested.store.begin() as transaction:
        later: datetime = NOW + 1000 * SECOND
        assert list(transaction.find_attention(now=later, limit=10)) == []
