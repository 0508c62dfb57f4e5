"""Problems wait for roles that are away: the outcome is that of an undisturbed run, and nothing is requested twice."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.options import Options
from shared.domain.roles import WorkerRole
from shared.domain.status import Status
from shared.machine.commands import next_commands
from shared.machine.hearing import MAX_WORKER_FAULTS
from shared.machine.state import DeadlinePassed, RequestOverdue, RolesAway, State
from shared.messages import GenerateSteps, PrefixMissing
from shared.policies.wrapping import Routing
from simulation.world import World
from tests.unit.machine.histories import START, answer, command_of, drafts_of, fail_worker, feed, running, scored
from tests.unit.machine.worlds import OneProblem, essence, limits, lookaheads, policies, worlds

SMALL, LARGE, PRM = WorkerRole.SMALL, WorkerRole.LARGE, WorkerRole.PRM
SECOND = timedelta(seconds=1)
NEVER_AGAIN = 1
"""Value of `max_attempts` with which a problem fails if anything is requested a second time."""

outages = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(list(WorkerRole)), st.sampled_from([5.0, 90.0, 4000.0])),
    min_size=1,
    max_size=4,
)
"""Each after some turns of the service: a role that leaves, and for how many seconds."""


def through(service: OneProblem, absences: list[tuple[int, WorkerRole, float]]) -> State:
    """Run a problem through outages to its end."""
    for turns, role, seconds in absences:
        for _ in range(turns):
            service.turn()
        service.take_away(role, for_s=seconds)
        service.sweep()
    return service.end()


@settings(max_examples=150, deadline=None)
@given(world=worlds, policy=policies, lookahead=lookaheads, limits=limits, absences=outages)
def test_outages_of_workers_change_no_outcome_and_have_nothing_requested_twice(
    world: World, policy: Routing, lookahead: int | None, limits: Any, absences: list[tuple[int, WorkerRole, float]]
) -> None:
    options: dict[str, Any] = {"lookahead": lookahead, "limits": limits, "max_attempts": NEVER_AGAIN}
    service = OneProblem(world, policy, **options)
    ended = through(service, absences)
    assert essence(ended) == essence(OneProblem(world, policy, **options).end())
    generate = [each for each in service.bus.history if isinstance(each, GenerateSteps)]
    handed_back = [each.command for each in service.bus.history if isinstance(each, PrefixMissing)]
    requested = Counter((each.epoch, each.first_step) for each in generate)
    requested.subtract((each.epoch, each.first_step) for each in handed_back if isinstance(each, GenerateSteps))
    assert set(requested.values()) <= {1}


# --- by example -------------------------------------------------------------------------------------------------------


def away(*roles: WorkerRole) -> RolesAway:
    return RolesAway(dict.fromkeys(roles, START))


def test_a_problem_that_waits_is_never_overdue_and_goes_on_one_timeout_after_the_role_is_back() -> None:
    state = feed(running(max_attempts=NEVER_AGAIN), away(SMALL, PRM))
    assert [(each.role, each.since) for each in state.waits_for] == [(PRM, START), (SMALL, START)]
    assert state.due_at is None
    later = START + timedelta(days=1)
    assert feed(state, RequestOverdue(), away(SMALL, PRM), DeadlinePassed(), now=later) is state
    state = feed(state, away(SMALL), now=later)
    assert [each.role for each in state.waits_for] == [SMALL]
    state = feed(state, away(), now=later)
    assert (state.waits_for, state.due_at) == ((), later + timedelta(seconds=Options().step_timeout_s))
    assert state.request_count == 1, "its command is still queued"


def test_only_problems_that_need_the_role_wait() -> None:
    state = running()
    assert feed(state, away(LARGE)) is state
    escalated = answer(state, "bad", score=0.1)
    assert feed(escalated, away(SMALL, PRM)) is escalated
    assert [each.role for each in feed(escalated, away(*WorkerRole)).waits_for] == [LARGE]
    ended = answer(state, "\\boxed{42}", score=1.0)
    assert feed(ended, away(*WorkerRole)) is ended


def test_a_deadline_ends_a_problem_that_waits() -> None:
    state = feed(running(deadline_at=START + SECOND), away(PRM))
    ended = feed(state, DeadlinePassed(), now=START + SECOND)
    assert (ended.status, ended.absences, ended.due_at) == (Status.EXPIRED, (), None)


def test_work_that_arrives_meanwhile_is_decided() -> None:
    state = running()
    (draft,) = drafts_of(command_of(state), "one")
    state = feed(state, away(SMALL), scored(draft, scores=(1.0,)))
    assert ([step.text for step in state.steps], state.request_count) == (["one"], 2)
    assert [each.role for each in state.waits_for] == [SMALL]


def test_a_workers_own_fault_is_no_attempt_and_is_requested_again_after_a_moment() -> None:
    state = feed(running(max_attempts=NEVER_AGAIN), fail_worker())
    assert (state.status, state.attempts, next_commands(state)) == (Status.RUNNING, 0, ())
    assert state.due_at == START + SECOND
    assert feed(state, RequestOverdue()) is state
    state = feed(state, RequestOverdue(), now=START + SECOND)
    assert (state.attempts, state.request_count, command_of(state).request_number) == (0, 2, 1)


def test_a_request_that_was_lost_while_its_role_is_away_is_repeated_once_it_is_back() -> None:
    state = feed(running(max_attempts=NEVER_AGAIN), fail_worker(), away(SMALL))
    assert state.due_at is None
    later = START + timedelta(hours=1)
    assert feed(state, RequestOverdue(), now=later) is state
    state = feed(state, away(), now=later)
    assert (state.attempts, state.request_count, command_of(state).issued_at) == (0, 2, later)


def test_drafts_that_a_prm_lost_are_requested_again_without_an_attempt() -> None:
    state = running(max_attempts=NEVER_AGAIN, lookahead=1)
    drafts = drafts_of(command_of(state), "one", "two")
    state = feed(state, fail_worker(lost=tuple(drafts)))
    assert (state.attempts, state.ledger.small_wasted) == (0, 10)
    assert command_of(feed(state, RequestOverdue(), now=START + SECOND)).request_number == 1


def test_an_escalation_that_a_worker_lost_stays_one() -> None:
    state = answer(running(max_attempts=NEVER_AGAIN), "bad", score=0.1)
    state = feed(state, fail_worker(epoch=1, request_number=1))
    command = command_of(feed(state, RequestOverdue(), now=START + SECOND))
    assert (command.author, command.request_number) == ("large", 2)


def test_a_step_that_fails_through_every_worker_counts_as_an_attempt_in_the_end() -> None:
    state, now = running(max_attempts=2), START
    for number in range(2 * MAX_WORKER_FAULTS + 2):
        assert state.status is Status.RUNNING
        state = feed(state, fail_worker(name=f"failed {number}", request_number=state.request_count - 1), now=now)
        now = state.due_at or now
        state = feed(state, RequestOverdue(), now=now)
    assert state.failure is not None
    assert (state.failure.code, now > START + timedelta(minutes=3)) == ("attempts_exhausted", True)
