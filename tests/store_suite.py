"""The behaviour of every `shared.store.port.Store`, as tests.

A test module runs the suite against its stores:

    from tests.store_suite import *  # noqa: F403

    @pytest.fixture(params=[...])
    def tested(request) -> TestedStore: ...

The tests take the fixture `tested`: an empty store, with the few operations that the port leaves to the api.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

from shared.domain.absences import Absence
from shared.domain.decisions import Action, DecidedBy, Decision, DecisionRecord, Observation, PolicyVersion
from shared.domain.drafts import Draft, Finish, ScoredDraft, Scoring
from shared.domain.fitness import Unfit
from shared.domain.ledger import Ledger
from shared.domain.options import (
    Bridging,
    Limits,
    Options,
    Plan,
    PolicyChoice,
    Sampling,
    WhenLargeAway,
    WhenPrmAway,
    WhenSmallAway,
    Wrappers,
)
from shared.domain.roles import Author, WorkerRole
from shared.domain.shadows import Shadow, ShadowRecord, Skip, Skipped
from shared.domain.status import Failure, Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import prefix_digest
from shared.domain.verdict import Verdict
from shared.machine.state import State, StepRequest, new_state
from shared.store.port import Change, Due, LockedProblem, SeenProcess, Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
THRESHOLD = PolicyChoice(name="threshold", revision=1, parameters={"threshold": 0.5})
TENANTS = tuple(UUID(int=number) for number in range(1, 4))


@dataclass(frozen=True, kw_only=True)
class NewProblem:
    """A problem to queue."""

    question: str = "What is 6 times 7?"
    reference: str | None = None
    policy: PolicyChoice = THRESHOLD
    shadows: tuple[Shadow, ...] = ()
    options: Options = field(default_factory=Options)
    tenant_id: UUID = TENANTS[0]


class TestedStore(Protocol):
    """An empty store, and what the api does to it."""

    __test__ = False

    @property
    def store(self) -> Store:
        """The store."""

    def add(self, problem: NewProblem) -> UUID:
        """Queue a problem; ids rise from call to call."""

    def request_cancel(self, problem_id: UUID) -> None:
        """Record that the submitter requested a cancellation."""

    def shadow_decisions(self, problem_id: UUID) -> Sequence[tuple[int, int, str | None, str | None, bool | None]]:
        """Read what a problem's shadows decided: decision, shadow, action, why it was skipped, whether it agrees."""

    def processes(self) -> Mapping[str, SeenProcess]:
        """Read the recorded processes by name."""


class Refused(Exception):
    """Raised to break a transaction."""


def lock(tested: TestedStore, problem_id: UUID, *, heard: Collection[UUID] = ()) -> LockedProblem:
    with tested.store.begin() as transaction:
        return transaction.lock([problem_id], heard=heard)[problem_id]


def save(tested: TestedStore, problem_id: UUID, **changes: object) -> State:
    """Change fields of a problem's state in one transaction; return the state that was saved."""
    with tested.store.begin() as transaction:
        locked = transaction.lock([problem_id])[problem_id]
        after = locked.state.evolve(**changes)
        transaction.save([Change(locked, after)])
    return after


def run(tested: TestedStore, problem_id: UUID, *, due_at: datetime = NOW) -> None:
    save(tested, problem_id, status=Status.RUNNING, started_at=NOW, due_at=due_at)


def next_queued(
    tested: TestedStore,
    *away: WorkerRole,
    now: datetime = NOW,
    window: int = 100,
    limit: int = 100,
) -> list[UUID]:
    with tested.store.begin() as transaction:
        return list(transaction.next_queued(now=now, window=window, limit=limit, away=away))


def find_attention(tested: TestedStore, *, now: datetime = NOW, limit: int = 100) -> list[Due]:
    with tested.store.begin() as transaction:
        return list(transaction.find_attention(now=now, limit=limit))


def a_draft(index: int, text: str = "A draft.") -> Draft:
    return Draft(
        id=uuid4(), author=Author.SMALL, index=index, prefix_digest="0123456789abcdef", text=text, finish=Finish.ENDED,
        tokens=5, opens_call=True, prompt_tokens=9, cached_tokens=3, model="small-model", worker="small-0",
        waited_ms=0.25, worked_ms=1.5,
    )  # fmt: skip


def a_scoring() -> Scoring:
    return Scoring(id=uuid4(), model="prm-model", worker="prm-0", tokens=7, waited_ms=0.5, worked_ms=2.5)


def a_step(index: int, author: Author = Author.SMALL, *, score: float | None = 0.75) -> Step:
    return Step(
        index=index, author=author, text=f"Step {index}: é \N{ROLLING ON THE FLOOR LAUGHING}", finish=Finish.SEPARATOR,
        tokens=4, score=score, model="m", worker="w", waited_ms=1.0, worked_ms=2.0, accepted_at=NOW + index * SECOND,
    )  # fmt: skip


def a_decision(number: int, step: int, draft: Draft | None) -> DecisionRecord:
    return DecisionRecord(
        number=number,
        step=step,
        epoch=0,
        observation=Observation(step=step, score=None if draft is None else 0.1, previous_scores=(None, 0.5)[:step]),
        decision=Decision(action=Action.ESCALATE, reason="score_below_threshold", value=0.1, compared_with=0.5),
        decided_by=DecidedBy.POLICY,
        policy=PolicyVersion(name="threshold", revision=1, parameters_digest="0123456789abcdef"),
        draft=draft,
        scoring=None if draft is None else a_scoring(),
        decided_at=NOW,
    )


def a_shadow_record(number: int, shadow: int, *, skip: Skip | None = None) -> ShadowRecord:
    decision = Decision(action=Action.ACCEPT, reason="lot_not_drawn", value=0.75, compared_with=0.5)
    return ShadowRecord(
        number=number,
        shadow=shadow,
        policy=PolicyVersion(name="random", revision=2, parameters_digest="fedcba9876543210"),
        outcome=decision if skip is None else Skipped(reason=skip, detail="It was skipped."),
        agrees=False if skip is None else None,
        decided_at=NOW,
    )


# --- locking and saving ---------------------------------------------------------------------------------------------


def test_a_queued_problem_is_locked_in_its_first_state(tested: TestedStore) -> None:
    options = Options(
        plan=Plan(escalates=False), lookahead=None, limits=Limits(max_steps=7), sampling=Sampling(seed=2**53),
        step_timeout_s=1.5, max_attempts=2, deadline_at=NOW + SECOND,
    )  # fmt: skip
    problem = NewProblem(reference="42", options=options)
    problem_id = tested.add(problem)
    locked = lock(tested, problem_id)
    state = new_state(problem_id=problem_id, question=problem.question, options=options, reference="42")
    assert locked == LockedProblem(state=state, policy=THRESHOLD)


def test_unknown_problems_are_left_out(tested: TestedStore) -> None:
    known, unknown = tested.add(NewProblem()), uuid4()
    with tested.store.begin() as transaction:
        assert transaction.lock([]) == {}
        assert list(transaction.lock([unknown, known])) == [known]


def test_problems_are_locked_in_the_order_of_their_ids(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(4)]
    with tested.store.begin() as transaction:
        assert list(transaction.lock([ids[2], ids[0], ids[3], ids[1]])) == ids


def test_every_field_of_a_running_problem_is_read_as_it_was_saved(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem(reference="42"))
    steps = (a_step(0), a_step(1, Author.LARGE, score=None))
    request = StepRequest(
        author=Author.LARGE, from_step=2, max_steps=3, number=4, issued_at=NOW, expires_at=NOW + SECOND,
        unscored_steps=1, failed_at_step=3, skips_prm=True, is_lost=True, worker_faults=2,
    )  # fmt: skip
    saved = save(
        tested,
        problem_id,
        status=Status.RUNNING,
        epoch=3,
        steps=steps,
        digest=prefix_digest("What is 6 times 7?", [step.text for step in steps]),
        pending=(
            ScoredDraft(draft=a_draft(2), score=0.5, scoring=a_scoring()),
            ScoredDraft(draft=a_draft(3), score=None, scoring=a_scoring()),
            ScoredDraft(draft=a_draft(4, "\\boxed{\u2028}"), goes_unscored=True),
        ),
        request=request,
        request_count=5,
        oldest_request=2,
        attempts=1,
        due_at=NOW + SECOND,
        absences=(
            Absence(role=WorkerRole.LARGE, since=NOW),
            Absence(role=WorkerRole.PRM, since=NOW - SECOND, is_bridged=True),
        ),
        decision_count=2,
        escalation_count=1,
        ledger=Ledger(
            **dict(
                zip(Ledger.__slots__, itertools.count(2**40), strict=False), small_calls=1, large_calls=2, prm_calls=3
            )
        ),
        started_at=NOW,
    )
    assert lock(tested, problem_id) == LockedProblem(state=saved, policy=THRESHOLD)


@pytest.mark.parametrize(
    "end",
    [
        {"status": Status.SUCCEEDED, "stop_reason": StopReason.SIZE_LIMIT, "answer": "42", "verdict": Verdict.CORRECT},
        {"status": Status.FAILED, "failure": Failure(code="broken", detail="Broken.")},
        {"status": Status.CANCELLED},
        {"status": Status.EXPIRED},
    ],
)
def test_every_field_of_a_problem_that_has_ended_is_read_as_it_was_saved(
    tested: TestedStore, end: dict[str, object]
) -> None:
    problem_id = tested.add(NewProblem(reference="42"))
    saved = save(tested, problem_id, epoch=1, finished_at=NOW, **end)
    assert lock(tested, problem_id).state == saved


def test_decisions_are_written_and_not_read_again(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    decisions = (a_decision(0, 0, a_draft(0)), a_decision(1, 1, None))
    saved = save(tested, problem_id, decisions=decisions, decision_count=2)
    assert lock(tested, problem_id).state == saved.evolve(decisions=())


def test_a_problem_is_locked_with_its_shadows(tested: TestedStore) -> None:
    shadows = (
        Shadow(policy=PolicyChoice(name="random", revision=2, parameters={"p": 0.5}, wrappers=Wrappers(epsilon=0.25))),
        Shadow(policy=PolicyChoice(name="pomdp", revision=1, parameters={}, version=3)),
    )
    assert lock(tested, tested.add(NewProblem(shadows=shadows))).shadows == shadows


def test_what_shadows_decide_is_saved_with_the_decisions_or_not_at_all(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())

    def save_shadowed(*, breaks: bool) -> None:
        with tested.store.begin() as transaction:
            locked = transaction.lock([problem_id])[problem_id]
            after = locked.state.evolve(decisions=(a_decision(0, 0, a_draft(0)),), decision_count=1)
            shadowed = [a_shadow_record(0, 0), a_shadow_record(0, 1, skip=Skip.NO_TIME)]
            transaction.save([Change(locked, after, shadow_decisions=shadowed)])
            if breaks:
                raise Refused

    with pytest.raises(Refused):
        save_shadowed(breaks=True)
    assert tested.shadow_decisions(problem_id) == []
    save_shadowed(breaks=False)
    assert tested.shadow_decisions(problem_id) == [(0, 0, "accept", None, False), (0, 1, None, "no_time", None)]


def test_a_step_may_be_decided_twice(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, decisions=(a_decision(0, 0, a_draft(0)),), decision_count=1)
    save(tested, problem_id, decisions=(a_decision(1, 0, a_draft(0)),), decision_count=2)
    assert lock(tested, problem_id).state.decision_count == 2


def test_a_score_that_arrives_later_is_saved(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    save(tested, problem_id, steps=(a_step(0), a_step(1, Author.LARGE, score=None)))
    steps = (a_step(0), a_step(1, Author.LARGE, score=0.5), a_step(2))
    save(tested, problem_id, steps=steps)
    assert lock(tested, problem_id).state.steps == steps


def test_a_broken_transaction_changes_nothing(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    before = lock(tested, problem_id)
    after = before.state.evolve(status=Status.RUNNING, steps=(a_step(0),), decisions=(a_decision(0, 0, None),))

    def save_and_break() -> None:
        with tested.store.begin() as transaction:
            transaction.save([Change(transaction.lock([problem_id])[problem_id], after)])
            raise Refused

    with pytest.raises(Refused):
        save_and_break()
    assert lock(tested, problem_id) == before


def test_many_problems_are_saved_together(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(3)]
    with tested.store.begin() as transaction:
        locked = transaction.lock(ids)
        transaction.save(
            Change(each, each.state.evolve(steps=(a_step(0),) * (number > 0), epoch=number))
            for number, each in enumerate(locked.values())
        )
    with tested.store.begin() as transaction:
        states = [each.state for each in transaction.lock(ids).values()]
    assert [(state.epoch, len(state.steps)) for state in states] == [(0, 0), (1, 1), (2, 1)]


# --- the inbox ------------------------------------------------------------------------------------------------------


def test_only_ids_that_are_heard_again_are_booked(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem())
    first, second, third = uuid4(), uuid4(), uuid4()
    save(tested, problem_id, booked=frozenset({first, second}))
    assert lock(tested, problem_id).state.booked == frozenset()
    assert lock(tested, problem_id, heard=[second, third]).state.booked == {second}


def test_an_id_is_booked_for_its_problem_alone(tested: TestedStore) -> None:
    one, other = tested.add(NewProblem()), tested.add(NewProblem())
    booked = uuid4()
    save(tested, one, booked=frozenset({booked}))
    with tested.store.begin() as transaction:
        locked = transaction.lock([one, other], heard=[booked])
    assert locked[one].state.booked == {booked}
    assert locked[other].state.booked == frozenset()
    save(tested, other, booked=frozenset({booked}))
    assert lock(tested, other, heard=[booked]).state.booked == {booked}


# --- admission ------------------------------------------------------------------------------------------------------


def test_the_oldest_problems_of_a_tenant_are_admitted_first(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(3)]
    assert next_queued(tested, limit=2) == ids[:2]
    assert next_queued(tested) == ids


def test_the_window_counts_running_problems(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(5)]
    run(tested, ids[0])
    run(tested, ids[1])
    assert next_queued(tested, window=4) == ids[2:4]
    assert next_queued(tested, window=2) == []
    assert next_queued(tested, window=1) == []


def test_ended_problems_make_room(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(2)]
    run(tested, ids[0])
    assert next_queued(tested, window=1) == []
    save(tested, ids[0], status=Status.SUCCEEDED, finished_at=NOW)
    assert next_queued(tested, window=1) == [ids[1]]


def test_a_long_queue_does_not_delay_another_tenant(tested: TestedStore) -> None:
    crowd = [tested.add(NewProblem(tenant_id=TENANTS[0])) for _ in range(5)]
    second = [tested.add(NewProblem(tenant_id=TENANTS[1])) for _ in range(2)]
    third = [tested.add(NewProblem(tenant_id=TENANTS[2]))]
    assert next_queued(tested, limit=3) == [crowd[0], second[0], third[0]]
    assert next_queued(tested) == [crowd[0], second[0], third[0], crowd[1], second[1], *crowd[2:]]


def test_a_tenant_with_running_problems_waits_for_its_turn(tested: TestedStore) -> None:
    crowd = [tested.add(NewProblem(tenant_id=TENANTS[0])) for _ in range(4)]
    for each in crowd[:2]:
        run(tested, each)
    late = [tested.add(NewProblem(tenant_id=TENANTS[1])) for _ in range(4)]
    assert next_queued(tested, window=5) == [*late[:2], crowd[2]], "two run, so its next one is its third"


def test_problems_pass_those_before_them_that_are_cancelled_or_past_their_deadline(tested: TestedStore) -> None:
    bound = Options(deadline_at=NOW + SECOND)
    late = [tested.add(NewProblem(options=bound)) for _ in range(60)]
    cancelled, waiting = tested.add(NewProblem()), tested.add(NewProblem())
    tested.request_cancel(cancelled)
    assert next_queued(tested, limit=1) == late[:1]
    assert next_queued(tested, now=NOW + SECOND, window=1) == [waiting]
    found = find_attention(tested, now=NOW + SECOND)
    assert {each.problem_id for each in found} == {*late, cancelled}


LARGE_ONLY, SMALL_ONLY = Plan(drafts=False, scores=False), Plan(scores=False, escalates=False)


def add(tested: TestedStore, plan: Plan, *, tenant_id: UUID = TENANTS[0], **bridging: Any) -> UUID:
    return tested.add(NewProblem(options=Options(plan=plan, bridging=Bridging(**bridging)), tenant_id=tenant_id))


def wait_for(tested: TestedStore, role: WorkerRole, *, plan: Plan = LARGE_ONLY, **more: Any) -> UUID:
    """Add a running problem that waits for a role."""
    problem_id = add(tested, plan, **more)
    request = StepRequest(author=Author(role), from_step=0, max_steps=1, number=0, issued_at=NOW, expires_at=NOW)
    absences = (Absence(role=role, since=NOW),)
    save(tested, problem_id, status=Status.RUNNING, started_at=NOW, due_at=None, request=request, absences=absences)
    return problem_id


def test_a_queued_problem_that_would_wait_for_a_role_is_passed(tested: TestedStore) -> None:
    large_only, small_only, drafting = (add(tested, plan) for plan in (LARGE_ONLY, SMALL_ONLY, Plan()))
    assert next_queued(tested) == [large_only, small_only, drafting]
    assert next_queued(tested, WorkerRole.LARGE) == [small_only, drafting], "which may never need the large model"
    assert next_queued(tested, WorkerRole.PRM) == [large_only, small_only]
    assert next_queued(tested, WorkerRole.SMALL) == [large_only]
    assert next_queued(tested, WorkerRole.LARGE, WorkerRole.PRM, limit=1) == [small_only]
    assert next_queued(tested, *WorkerRole) == []


def test_a_queued_problem_that_goes_on_without_a_role_starts(tested: TestedStore) -> None:
    failing = add(tested, LARGE_ONLY, when_large_away=WhenLargeAway.FAIL)
    add(tested, LARGE_ONLY, when_large_away=WhenLargeAway.ACCEPT)  # It has no drafts.
    accepting = add(tested, Plan(), when_prm_away=WhenPrmAway.ACCEPT)
    escalating = add(tested, Plan(), when_prm_away=WhenPrmAway.ESCALATE, when_small_away=WhenSmallAway.LARGE_ONLY)
    assert next_queued(tested, WorkerRole.LARGE) == [failing, accepting, escalating]
    assert accepting not in next_queued(tested, WorkerRole.SMALL, WorkerRole.PRM), "it waits for drafts"
    assert next_queued(tested, WorkerRole.SMALL, WorkerRole.PRM)[-1] == escalating


def test_problems_that_wait_leave_the_window_to_others(tested: TestedStore) -> None:
    for _ in range(2):
        wait_for(tested, WorkerRole.LARGE)
    drafting, small_only = add(tested, Plan()), add(tested, SMALL_ONLY)
    assert next_queued(tested, window=2) == [], "the role is back, so they go on"
    assert next_queued(tested, WorkerRole.LARGE, window=3) == [drafting, small_only]
    assert next_queued(tested, WorkerRole.LARGE, window=2) == [small_only], "enough may wait already"
    assert next_queued(tested, WorkerRole.LARGE, window=1) == [small_only]
    run(tested, drafting)
    assert next_queued(tested, WorkerRole.LARGE, window=1) == []


def test_however_many_wait_the_number_of_running_problems_is_bounded(tested: TestedStore) -> None:
    for _ in range(4):
        wait_for(tested, WorkerRole.LARGE)
    add(tested, SMALL_ONLY)
    assert next_queued(tested, WorkerRole.LARGE, window=1) == []


def test_a_tenant_whose_problems_wait_is_not_behind_others(tested: TestedStore) -> None:
    for _ in range(3):
        wait_for(tested, WorkerRole.LARGE, tenant_id=TENANTS[1])
    others = [add(tested, SMALL_ONLY, tenant_id=TENANTS[0]) for _ in range(3)]
    add(tested, LARGE_ONLY, tenant_id=TENANTS[1])
    own = [add(tested, SMALL_ONLY, tenant_id=TENANTS[1]) for _ in range(2)]
    assert next_queued(tested, WorkerRole.LARGE, limit=4) == [others[0], own[0], others[1], own[1]]


# --- attention ------------------------------------------------------------------------------------------------------


def test_overdue_problems_are_found_longest_due_first(tested: TestedStore) -> None:
    ids = [tested.add(NewProblem()) for _ in range(4)]
    for number, each in enumerate(reversed(ids)):
        run(tested, each, due_at=NOW + number * SECOND)
    found = find_attention(tested, now=NOW + 2 * SECOND)
    assert found == [Due(each, False) for each in (ids[3], ids[2], ids[1])]
    assert find_attention(tested, now=NOW + 2 * SECOND, limit=2) == found[:2]
    assert find_attention(tested, now=NOW - SECOND) == []


def test_open_problems_past_their_deadline_are_found(tested: TestedStore) -> None:
    options = Options(deadline_at=NOW)
    queued, running, ended = (tested.add(NewProblem(options=options)) for _ in range(3))
    later = tested.add(NewProblem(options=replace(options, deadline_at=NOW + SECOND)))
    run(tested, running, due_at=NOW + SECOND)
    save(tested, ended, status=Status.SUCCEEDED, finished_at=NOW)
    assert {each.problem_id for each in find_attention(tested)} == {queued, running}
    assert later in {each.problem_id for each in find_attention(tested, now=NOW + SECOND)}


def test_open_problems_to_be_cancelled_are_found(tested: TestedStore) -> None:
    queued, running, ended = (tested.add(NewProblem()) for _ in range(3))
    run(tested, running, due_at=NOW + SECOND)
    for each in (queued, running, ended):
        tested.request_cancel(each)
    save(tested, ended, status=Status.CANCELLED, finished_at=NOW)
    assert find_attention(tested) == [Due(queued, True), Due(running, True)]


def test_a_problem_with_several_reasons_is_found_once(tested: TestedStore) -> None:
    problem_id = tested.add(NewProblem(options=Options(deadline_at=NOW)))
    run(tested, problem_id)
    tested.request_cancel(problem_id)
    assert find_attention(tested) == [Due(problem_id, True)]


def test_deadlines_that_passed_together_hold_up_no_cancellation_and_no_overdue_request(tested: TestedStore) -> None:
    late = [tested.add(NewProblem(options=Options(deadline_at=NOW - 9 * SECOND))) for _ in range(5)]
    overdue, cancelled = tested.add(NewProblem()), tested.add(NewProblem())
    run(tested, overdue, due_at=NOW)
    tested.request_cancel(cancelled)
    found = [each.problem_id for each in find_attention(tested, now=NOW, limit=4)]
    assert set(found[:3]) == {late[0], overdue, cancelled}
    assert found[3:] == late[1:2]


# --- processes ------------------------------------------------------------------------------------------------------


def test_an_older_heartbeat_replaces_no_newer_one(tested: TestedStore) -> None:
    unfit = Unfit(code="access_denied", detail="The server refuses the key.", since=NOW)
    new = SeenProcess("small-0", role="small", model="b", seen_at=NOW, unfit=unfit, clock_ahead_s=-1.5)
    old = replace(new, model="a", seen_at=NOW - SECOND, unfit=None, clock_ahead_s=None)
    for beat in (old, new, old):
        with tested.store.begin() as transaction:
            transaction.record_processes([beat])
    other = SeenProcess("broker", role="broker", model=None, seen_at=NOW)
    with tested.store.begin() as transaction:
        transaction.record_processes([other])
        transaction.record_processes([])
    assert tested.processes() == {"small-0": new, "broker": other}
