"""The outcome of a problem does not depend on what the bus, the workers and the clock do.

Asserted under dropped, duplicated, reordered, delayed, replayed and redelivered messages, crashes and failures:

- Status, stop reason, answer, trajectory, decisions, and the tokens kept, discarded and spent on large steps are
  those of an undisturbed run.
- After every commit the ledger is the sum of what the engines used, the window is not exceeded, and a running problem
  has a time at which it wakes (see `simulation.audit`). Workers report all that their engines used.
- With lookahead 0 and nothing lost the whole ledger is that of the undisturbed run. With lookahead 0 and losses no
  column is less. With lookahead above 0, waste, input, calls and PRM tokens depend on timing and are only audited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shared.bus.topology import DELIVERY_LIMIT, EVENTS, QUEUES, QueueRole
from shared.domain.decisions import Action, DecidedBy, DecisionRecord
from shared.domain.options import Limits
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.domain.steps import Step
from shared.domain.text import prefix_digest
from shared.engines.port import EngineDead, RequestRefused
from shared.machine.state import State
from shared.messages import CancelWork, GenerateSteps, ScoreSteps, StepsGenerated, encode
from shared.policies.wrapping import Routing
from simulation.world import World
from tests.unit.machine.worlds import (
    BUDGETED,
    POLICIES,
    QUESTION,
    OneProblem,
    budgeted,
    essence,
    limits,
    lookaheads,
    policies,
    worlds,
)

COMMANDS = tuple(WorkerRole)


def undisturbed(world: World, policy: Routing, **options: Any) -> State:
    return OneProblem(world, policy, **options).end()


def places(service: OneProblem, queues: Sequence[QueueRole]) -> list[int]:
    """Return the places of messages on their way to some queues."""
    return [place for place, letter in enumerate(service.bus.letters) if letter.queue in queues]


def crashable(service: OneProblem) -> list[int]:
    """Return the places of events that may be redelivered once more; the next delivery would make a dead letter."""
    letters = service.bus.letters
    return [place for place in places(service, [EVENTS]) if letters[place].deliveries < DELIVERY_LIMIT - 1]


class DisturbedProblem(RuleBasedStateMachine):
    """Applies disturbances in any order, then runs without any and compares the outcome with an undisturbed run."""

    @initialize(world=worlds, policy=policies, lookahead=lookaheads, limits=limits, seed=st.integers(0, 9))
    def submit(self, world: World, policy: Routing, lookahead: int | None, limits: Limits, seed: int) -> None:
        self.lookahead = lookahead
        expected = OneProblem(world, policy, lookahead=lookahead, limits=limits, seed=seed)
        self.reference = expected.end()
        published = [encode(message) for message in expected.bus.history]
        assert len(published) == len(set(published)), "work is requested twice"
        self.service = OneProblem(world, policy, lookahead=lookahead, limits=limits, seed=seed)
        self.has_losses = self.has_repeats = False

    @precondition(lambda self: self.service.bus.letters)
    @rule(place=st.integers(0, 99))
    def deliver_any(self, place: int) -> None:
        """Reordering and delay: messages may arrive in any order."""
        self.service.deliver(place % len(self.service.bus.letters))

    @precondition(lambda self: self.service.bus.letters)
    @rule(count=st.integers(1, 6))
    def deliver_some_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.service.bus.letters))):
            self.service.deliver()

    @precondition(lambda self: self.service.running)
    @rule(place=st.integers(0, 9), holds=st.lists(st.booleans(), min_size=1, max_size=4))
    def work(self, place: int, holds: list[bool]) -> None:
        """Some steps are published alone, some together with later ones."""
        for each in holds:
            if self.service.running:
                self.service.work(place % len(self.service.running), holds=each)

    @precondition(lambda self: self.service.bus.letters)
    @rule(place=st.integers(0, 99))
    def double(self, place: int) -> None:
        letters = self.service.bus.letters
        self.service.bus.resend(letters[place % len(letters)].message)

    @rule(place=st.integers(0, 999), is_redelivery=st.booleans())
    def replay(self, place: int, is_redelivery: bool) -> None:
        """An old message arrives again: as a duplicate, or because its acknowledgement was lost."""
        history = self.service.bus.history
        self.service.bus.resend(history[place % len(history)], is_redelivery=is_redelivery)

    @precondition(lambda self: crashable(self.service))
    @rule(place=st.integers(0, 99))
    def crash_orchestrator(self, place: int) -> None:
        """It commits, publishes nothing, and the broker redelivers the event later."""
        events = crashable(self.service)
        self.service.deliver(events[place % len(events)], crashes=True)

    @precondition(lambda self: self.service.running)
    @rule(place=st.integers(0, 9))
    def crash_worker(self, place: int) -> None:
        self.service.crash_worker(place % len(self.service.running))
        self.has_repeats = True

    @precondition(lambda self: self.service.running)
    @rule(place=st.integers(0, 9))
    def kill_engine(self, place: int) -> None:
        """The engine crashes, so the worker requeues its command and exits."""
        self.service.break_off(place % len(self.service.running), fault=EngineDead())
        self.has_repeats = True

    @precondition(lambda self: self.service.running)
    @rule(place=st.integers(0, 9))
    def break_off(self, place: int) -> None:
        self.service.break_off(place % len(self.service.running))
        self.has_losses = True

    @precondition(lambda self: self.service.bus.letters)
    @rule(place=st.integers(0, 99))
    def drop(self, place: int) -> None:
        self.service.bus.take(place % len(self.service.bus.letters))
        self.has_losses = True

    @precondition(lambda self: places(self.service, QUEUES))
    @rule(place=st.integers(0, 99), queue=st.sampled_from(QUEUES))
    def misplace(self, place: int, queue: QueueRole) -> None:
        """A message is moved to another queue, whose consumer must refuse it."""
        queued = places(self.service, QUEUES)
        moved = queued[place % len(queued)]
        self.has_losses = self.has_losses or self.service.bus.letters[moved].queue != queue
        self.service.bus.misplace(moved, queue)
        self.service.accepts_dead_letters = True

    @rule(epoch=st.sampled_from([1, 10**9]))
    def forge_cancel(self, epoch: int) -> None:
        """A cancel of an epoch that the problem has not reached, as before a failover: its next request wins."""
        self.service.bus.publish(CancelWork(problem_id=self.service.problem_id, epoch=epoch))
        self.has_losses = True

    @rule(seconds=st.sampled_from([-5.0, -0.5, 0.0, 5.0]))
    def orchestrate_elsewhere(self, seconds: float) -> None:
        """The next orchestrator to act has another clock."""
        self.service.skew = timedelta(seconds=seconds)

    @precondition(lambda self: places(self.service, COMMANDS))
    @rule(place=st.integers(0, 99))
    def fail_work(self, place: int) -> None:
        commands = places(self.service, COMMANDS)
        self.service.fail(commands[place % len(commands)])
        self.has_losses = True

    @rule()
    def refuse_copies(self) -> None:
        """Duplicates of finished work fail permanently; that must not matter."""
        state = self.service.problem
        for command in list(self.service.bus.history):
            if not isinstance(command, ScoreSteps | GenerateSteps) or command.first_step >= len(state.steps):
                continue
            is_newest = state.request is not None and command.request_number >= state.request.number
            if isinstance(command, ScoreSteps) or not is_newest:
                self.service.refuse(command, RequestRefused())

    @rule(seconds=st.sampled_from([0.5, 2.0, 59.0, 61.0, 300.0]), crashes=st.booleans())
    def wait(self, seconds: float, crashes: bool) -> None:
        """Time passes: requests become overdue, and commands on their way expire."""
        self.service.clock.advance(seconds)
        self.service.sweep(crashes=crashes)
        self.has_losses = True

    def teardown(self) -> None:
        if not hasattr(self, "service"):
            return
        state = self.service.end()
        assert essence(state) == essence(self.reference)
        spent, expected = astuple(state.ledger), astuple(self.reference.ledger)
        if self.lookahead == 0 and not (self.has_losses or self.has_repeats):
            assert state.ledger == self.reference.ledger
        if self.lookahead == 0:
            assert all(ours >= theirs for ours, theirs in zip(spent, expected, strict=True))
        assert self.has_losses or self.has_repeats or state.ledger.large_wasted == self.reference.ledger.large_wasted
        for message in list(self.service.bus.history):
            self.service.bus.resend(message)
        assert essence(self.service.end()) == essence(self.reference)


class DisturbedProblemWithBudget(DisturbedProblem):
    """As above, for policies whose decisions depend on what was spent in vain: they need not be the same."""

    @initialize(world=worlds, policy=budgeted, lookahead=lookaheads, limits=limits, seed=st.integers(0, 9))
    def submit(self, world: World, policy: Routing, lookahead: int | None, limits: Limits, seed: int) -> None:
        super().submit(world, policy, lookahead, limits, seed)

    def teardown(self) -> None:
        if hasattr(self, "service") and (self.has_losses or self.has_repeats):
            state = self.service.end()
            assert state.status in (Status.SUCCEEDED, Status.FAILED)
            large = {step.index: step for step in state.steps}
            assert rebuild(state.decisions, large) == [step.text for step in state.steps]
        else:
            super().teardown()


TestDisturbedProblem = DisturbedProblem.TestCase
TestDisturbedProblem.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestDisturbedProblemWithBudget = DisturbedProblemWithBudget.TestCase
TestDisturbedProblemWithBudget.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    world=worlds,
    policy=policies | budgeted,
    lookahead=st.sampled_from([1, 2, 4, None]),
    limits=limits,
    seed=st.integers(0, 9),
)
def test_drafting_ahead_gives_the_decisions_of_drafting_step_by_step(
    world: World, policy: Routing, lookahead: int | None, limits: Limits, seed: int
) -> None:
    step_by_step = undisturbed(world, policy, lookahead=0, limits=limits, seed=seed)
    ahead = undisturbed(world, policy, lookahead=lookahead, limits=limits, seed=seed)
    assert essence(ahead) == essence(step_by_step)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    world=worlds,
    policy=policies | budgeted,
    lookahead=lookaheads,
    limits=limits,
    schedule=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 99)), max_size=120),
)
def test_a_problem_ends_with_a_correct_ledger_although_the_same_work_gives_another_text(
    world: World, policy: Routing, lookahead: int | None, limits: Limits, schedule: list[tuple[int, int]]
) -> None:
    """Sampling on a GPU repeats nothing exactly: here two drafts with one id, or of one step, differ in text."""
    service = OneProblem(world, policy, lookahead=lookahead, limits=limits, is_salted=True)
    bus = service.bus
    for action, place in schedule:
        if action == 0:
            service.wait(seconds=1.0 + place)
        elif action == 1:
            bus.resend(bus.history[place % len(bus.history)], is_redelivery=bool(place % 2))
        elif action == 2 and service.running:
            service.crash_worker(place % len(service.running))
        elif action == 3 and bus.letters:
            bus.resend(bus.letters[place % len(bus.letters)].message)
        elif action == 4 and bus.letters:
            service.deliver(place % len(bus.letters))
        elif service.running:
            service.work(place % len(service.running), holds=place % 3 == 0)
        elif bus.letters:
            service.deliver()
    state = service.end()
    assert state.status in (Status.SUCCEEDED, Status.FAILED)
    assert [step.index for step in state.steps] == list(range(len(state.steps)))
    assert rebuild(state.decisions, {step.index: step for step in state.steps}) == [step.text for step in state.steps]


def rebuild(decisions: tuple[DecisionRecord, ...], large: dict[int, Step]) -> list[str]:
    """Rebuild the texts of a trajectory from the audit: accepted drafts, and the large steps where it escalated."""
    texts: list[str] = []
    # With a budget a step may be decided twice: the large model wrote it in vain, and nothing is left to pay again.
    last = {record.step: record for record in decisions}
    for record in last.values():
        assert record.step == len(texts), "the audit skips a step"
        if record.draft is not None:
            assert record.draft.prefix_digest == prefix_digest(QUESTION, texts), (
                "the decided draft continues another prefix"
            )
        if record.decision.action is Action.ACCEPT:
            assert record.draft is not None
            if record.draft.is_degenerate:
                break
            texts.append(record.draft.text)
        elif record.step in large:
            assert large[record.step].author is Author.LARGE
            texts.append(large[record.step].text)
        else:
            break
    return texts


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(world=worlds, policy=policies | budgeted, lookahead=lookaheads, limits=limits, seed=st.integers(0, 9))
def test_replaying_the_decisions_rebuilds_the_trajectory(
    world: World, policy: Routing, lookahead: int | None, limits: Limits, seed: int
) -> None:
    state = undisturbed(world, policy, lookahead=lookahead, limits=limits, seed=seed)
    texts: list[str] = []
    scored: list[float | None] = []
    last = {record.step: record for record in state.decisions}
    for record in state.decisions:
        observation = record.observation
        # The PRM scores large steps with the next draft that has words, if one follows.
        if policy.plan.takes_over or (record.draft is not None and record.draft.is_degenerate):
            seen = zip(observation.previous_scores, scored, strict=True)
            assert all(score in (None, final) for score, final in seen)
        else:
            assert observation.previous_scores == tuple(scored)
        assert observation.previous_authors == tuple(step.author for step in state.steps[: record.step])
        assert observation.previous_tokens == tuple(step.length for step in state.steps[: record.step])
        assert record.policy == policy.version
        if record.decided_by is DecidedBy.POLICY:
            assert policy.decide(observation) == record.decision
        if record is not last[record.step]:
            continue  # The budget cut the large step, so the small model wrote it.
        accepted = record.decision.action is Action.ACCEPT
        if accepted and record.draft is not None:
            text = record.draft.text
        else:
            text, _, _ = world.write(Author.LARGE, QUESTION, texts)
        if text == "...":
            break
        texts.append(text)
        scored.append(state.steps[record.step].score)
    assert texts == [step.text for step in state.steps]
    assert texts == rebuild(state.decisions, {s.index: s for s in state.steps if s.author is Author.LARGE})


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(world=worlds, policy=policies, lookahead=lookaheads, limits=limits)
def test_an_undisturbed_run_wastes_nothing_but_what_was_drafted_ahead_or_without_words(
    world: World, policy: Routing, lookahead: int | None, limits: Limits
) -> None:
    service = OneProblem(world, policy, lookahead=lookahead, limits=limits)
    ledger = service.end().ledger
    generated = [message for message in service.bus.history if isinstance(message, StepsGenerated)]
    without_words = {draft.id: draft for each in generated for draft in each.drafts if draft.is_degenerate}
    lost = {author: sum(each.tokens for each in without_words.values() if each.author is author) for author in Author}
    assert ledger.large_wasted == lost[Author.LARGE]
    if lookahead == 0 and not policy.plan.decides_whole:
        assert ledger.small_wasted <= lost[Author.SMALL]
        drafts = {draft.id: draft for each in service.bus.history for draft in getattr(each, "drafts", ())}.values()
        uncounted = {
            author: sum(each.estimated_tokens for each in drafts if each.author is author) for author in Author
        }
        assert (ledger.small_estimated, ledger.large_estimated) == (uncounted[Author.SMALL], uncounted[Author.LARGE])
        assert ledger.prm_estimated == 0


@pytest.mark.parametrize("policy", (POLICIES | BUDGETED).values(), ids=POLICIES | BUDGETED)
def test_a_problem_without_any_event_fails_after_its_attempts(policy: Routing) -> None:
    service = OneProblem(World(), policy, max_attempts=3)
    waits = []
    while not service.problem.status.is_final:
        service.bus.take_all()
        assert service.problem.due_at is not None
        waits.append((service.problem.due_at - service.clock.now).total_seconds())
        service.wait(waits[-1])
    assert waits == [60.0, 120.0, 240.0]
    assert service.problem.status is Status.FAILED
    assert service.problem.failure is not None
    assert service.problem.failure.code == "attempts_exhausted"


def test_a_step_can_be_requested_any_number_of_times() -> None:
    service = OneProblem(World(), POLICIES["threshold 0.5"], max_attempts=200)
    while not service.problem.status.is_final:
        service.bus.take_all()
        assert service.problem.due_at is not None
        service.clock.advance_to(service.problem.due_at)
        service.sweep()
    assert service.problem.attempts == 199
