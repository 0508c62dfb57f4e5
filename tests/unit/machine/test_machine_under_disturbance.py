"""The outcome of a problem does not depend on what the bus, the workers and the clock do meanwhile.

What is asserted, of problems that are dropped on, doubled, reordered, delayed, replayed, redelivered and crashed under:

- Status, stop reason, answer, trajectory, decisions, and the tokens kept, discarded and spent on large steps are
  those of an undisturbed run.
- After every commit the ledger is the sum of what the models reported under the ids that are booked; no id is booked
  twice; the window is never exceeded; a running problem has a time at which it wakes (all in `Simulation`).
- With lookahead 0 and nothing lost the whole ledger is that of the undisturbed run. With lookahead 0 and losses no
  column is less. With lookahead above 0, waste, input, calls and PRM tokens depend on timing and are only audited.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shared.domain.decisions import Action, DecisionRecord
from shared.domain.options import Limits
from shared.domain.roles import Author
from shared.domain.status import Status, StopReason
from shared.domain.steps import Step
from shared.domain.text import prefix_digest
from shared.machine.state import State
from shared.messages import GenerateSteps, ScoreSteps, StepsGenerated, StepsScored, WorkFailed, encode
from shared.policies.policy import Policy
from shared.policies.registry import build_policy
from tests.world import QUESTION, Simulation, World, essence, make_options

POLICIES: dict[str, Policy] = {
    "threshold 0.5": build_policy("threshold", {"threshold": 0.5}),
    "threshold 0": build_policy("threshold", {"threshold": 0}),
    "threshold 1": build_policy("threshold", {"threshold": 1}),
    "small-only": build_policy("small-only", {}),
    "large-only": build_policy("large-only", {}),
    "random": build_policy("random", {"p": 0.4}),
}

worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.06]),
    boxes=st.sampled_from([0.0, 0.06]),
    says_nothing=st.sampled_from([0.0, 0.06, 0.3]),
    scores_badly=st.sampled_from([0.0, 0.1]),
)
policies = st.sampled_from(["threshold 0.5", "threshold 0.5", "threshold 0.5", *POLICIES]).map(POLICIES.__getitem__)
lookaheads = st.sampled_from([0, 1, 4, None])
limits = st.builds(Limits, max_steps=st.sampled_from([1, 2, 8, 12]), max_tokens=st.sampled_from([1, 30, 80, 10_000]))


def undisturbed(world: World, policy: Policy, **options: Any) -> State:
    """Run a problem with nothing going wrong."""
    return Simulation(world, policy, make_options(policy, **options)).settle()


class DisturbedProblem(RuleBasedStateMachine):
    """Everything that can go wrong, in any order; then peace, and a comparison."""

    @initialize(world=worlds, policy=policies, lookahead=lookaheads, limits=limits, seed=st.integers(0, 9))
    def submit(self, world: World, policy: Policy, lookahead: int | None, limits: Limits, seed: int) -> None:
        options = make_options(policy, lookahead=lookahead, limits=limits, seed=seed)
        self.lookahead = lookahead
        peaceful = Simulation(world, policy, options)
        self.reference = peaceful.settle()
        assert len(peaceful.history) == len({encode(message) for message in peaceful.history}), (
            "work is asked for twice"
        )
        self.simulation = Simulation(world, policy, options)
        self.has_losses = False

    @precondition(lambda self: self.simulation.bus)
    @rule(place=st.integers(0, 99))
    def deliver_any(self, place: int) -> None:
        """Reordering and delay: which message comes next is nobody's promise."""
        self.simulation.deliver(place % len(self.simulation.bus))

    @precondition(lambda self: self.simulation.bus)
    @rule(count=st.integers(1, 6))
    def deliver_some_in_order(self, count: int) -> None:
        for _ in range(min(count, len(self.simulation.bus))):
            self.simulation.deliver(0)

    @precondition(lambda self: self.simulation.stretches)
    @rule(place=st.integers(0, 9), holds=st.lists(st.booleans(), min_size=1, max_size=4))
    def work(self, place: int, holds: list[bool]) -> None:
        """Some steps go out alone, some together with those after them."""
        for each in holds:
            if self.simulation.stretches:
                self.simulation.work(place % len(self.simulation.stretches), holds=each)

    @precondition(lambda self: self.simulation.bus)
    @rule(place=st.integers(0, 99))
    def double(self, place: int) -> None:
        message, _ = self.simulation.bus[place % len(self.simulation.bus)]
        self.simulation.bus.append((message, False))

    @rule(place=st.integers(0, 999), is_redelivery=st.booleans())
    def replay(self, place: int, is_redelivery: bool) -> None:
        """An old message comes again: as a copy, or because the broker never heard that it was handled."""
        message = self.simulation.history[place % len(self.simulation.history)]
        self.simulation.bus.append((message, is_redelivery))

    @precondition(lambda self: any(_is_event(message) for message, _ in self.simulation.bus))
    @rule(place=st.integers(0, 99))
    def crash_orchestrator(self, place: int) -> None:
        """It commits, publishes nothing, and the broker delivers the event again later."""
        events = [place for place, (message, _) in enumerate(self.simulation.bus) if _is_event(message)]
        self.simulation.deliver(events[place % len(events)], crashes=True)

    @precondition(lambda self: self.simulation.stretches)
    @rule(place=st.integers(0, 9))
    def crash_worker(self, place: int) -> None:
        self.simulation.crash_worker(place % len(self.simulation.stretches))

    @precondition(lambda self: self.simulation.stretches)
    @rule(place=st.integers(0, 9))
    def break_off(self, place: int) -> None:
        self.simulation.break_off(place % len(self.simulation.stretches))

    @precondition(lambda self: self.simulation.bus)
    @rule(place=st.integers(0, 99))
    def drop(self, place: int) -> None:
        del self.simulation.bus[place % len(self.simulation.bus)]
        self.has_losses = True

    @precondition(lambda self: any(_is_command(message) for message, _ in self.simulation.bus))
    @rule(place=st.integers(0, 99))
    def fail_work(self, place: int) -> None:
        commands = [place for place, (message, _) in enumerate(self.simulation.bus) if _is_command(message)]
        self.simulation.fail(commands[place % len(commands)])
        self.has_losses = True

    @rule()
    def fail_copies(self) -> None:
        """Work that was done is done again elsewhere, and fails there for good: nobody must mind."""
        self.simulation.fail_copies()

    @rule(seconds=st.sampled_from([0.5, 2.0, 59.0, 61.0, 300.0]))
    def wait(self, seconds: float) -> None:
        """Time passes: what is out becomes overdue, and commands still under way expire."""
        self.simulation.wait(seconds)
        self.has_losses = True

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        state = self.simulation.settle()
        assert essence(state) == essence(self.reference)
        spent, expected = astuple(state.ledger), astuple(self.reference.ledger)
        if self.lookahead == 0 and not self.has_losses:
            assert state.ledger == self.reference.ledger
        if self.lookahead == 0:
            assert all(ours >= theirs for ours, theirs in zip(spent, expected, strict=True))
        assert state.ledger.large_wasted == 0 or self.has_losses
        self.simulation.bus.extend((message, False) for message in self.simulation.history)
        assert essence(self.simulation.settle()) == essence(self.reference)


def _is_event(message: object) -> bool:
    return isinstance(message, StepsGenerated | StepsScored | WorkFailed)


def _is_command(message: object) -> bool:
    return isinstance(message, GenerateSteps | ScoreSteps)


TestDisturbedProblem = DisturbedProblem.TestCase
TestDisturbedProblem.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(world=worlds, policy=policies, lookahead=st.sampled_from([1, 2, 4, None]), limits=limits, seed=st.integers(0, 9))
def test_drafting_ahead_gives_the_decisions_of_drafting_step_by_step(
    world: World, policy: Policy, lookahead: int | None, limits: Limits, seed: int
) -> None:
    step_by_step = undisturbed(world, policy, lookahead=0, limits=limits, seed=seed)
    ahead = undisturbed(world, policy, lookahead=lookahead, limits=limits, seed=seed)
    assert essence(ahead) == essence(step_by_step)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    world=worlds,
    policy=policies,
    lookahead=lookaheads,
    limits=limits,
    schedule=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 99)), max_size=120),
)
def test_a_problem_ends_and_books_right_when_the_same_work_gives_another_text(
    world: World, policy: Policy, lookahead: int | None, limits: Limits, schedule: list[tuple[int, int]]
) -> None:
    """Sampling on a GPU repeats nothing exactly: here two drafts with one id, or of one step, differ in text."""
    simulation = Simulation(world, policy, make_options(policy, lookahead=lookahead, limits=limits), is_salted=True)
    for action, place in schedule:
        bus, stretches = simulation.bus, simulation.stretches
        if action == 0:
            simulation.wait(seconds=1.0 + place)
        elif action == 1:
            bus.append((simulation.history[place % len(simulation.history)], bool(place % 2)))
        elif action == 2 and stretches:
            simulation.crash_worker(place % len(stretches))
        elif action == 3 and bus:
            bus.append((bus[place % len(bus)][0], False))
        elif action == 4 and bus:
            simulation.deliver(place % len(bus))
        elif stretches:
            simulation.work(place % len(stretches), holds=place % 3 == 0)
        elif bus:
            simulation.deliver(0)
    state = simulation.settle()
    assert state.status in (Status.SUCCEEDED, Status.FAILED)
    assert [step.index for step in state.steps] == list(range(len(state.steps)))
    assert rebuild(state.decisions, {step.index: step for step in state.steps}) == [step.text for step in state.steps]


def rebuild(decisions: tuple[DecisionRecord, ...], large: dict[int, Step]) -> list[str]:
    """Rebuild the texts of a trajectory from the audit: accepted drafts, and the large steps where it escalated."""
    texts: list[str] = []
    for record in decisions:
        assert record.step == len(texts), "the audit skips a step"
        if record.draft is not None:
            assert record.draft.prefix_digest == prefix_digest(QUESTION, texts), "a draft of another prefix was decided"
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
@given(world=worlds, policy=policies, lookahead=lookaheads, limits=limits, seed=st.integers(0, 9))
def test_replaying_the_decisions_rebuilds_the_trajectory(
    world: World, policy: Policy, lookahead: int | None, limits: Limits, seed: int
) -> None:
    state = undisturbed(world, policy, lookahead=lookahead, limits=limits, seed=seed)
    texts: list[str] = []
    scored: list[float | None] = []
    for record in state.decisions:
        observation = record.observation
        assert observation.previous_scores == tuple(score for score in scored if score is not None)
        if record.decision.reason not in ("degenerate_draft", "model_ended", "invalid_score"):
            assert policy.decide(observation) == record.decision
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
def test_the_ledger_of_a_peaceful_run_is_the_trajectory_and_its_rejected_drafts(
    world: World, policy: Policy, lookahead: int | None, limits: Limits
) -> None:
    simulation = Simulation(world, policy, make_options(policy, lookahead=lookahead, limits=limits))
    state = simulation.settle()
    rejected = [
        record.draft.tokens
        for record in state.decisions
        if record.draft is not None and record.decision.action is Action.ESCALATE
    ]
    assert state.ledger.small_discarded == sum(rejected)
    steps = {role: sum(step.tokens for step in state.steps if step.author is role) for role in Author}
    spoke_last = state.stop_reason is StopReason.DEGENERATE or state.status is Status.FAILED
    if (
        not spoke_last
        and state.decisions[-1].decision.reason != "model_ended"
        and len(state.steps) == (len(state.decisions))
    ):
        assert (state.ledger.small_kept, state.ledger.large_out) == (steps[Author.SMALL], steps[Author.LARGE])
    else:
        assert state.ledger.small_kept + state.ledger.large_out > steps[Author.SMALL] + steps[Author.LARGE]
    if lookahead == 0:
        assert state.ledger.small_wasted == state.ledger.large_wasted == 0


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_problem_that_nobody_answers_fails_after_its_attempts(policy: Policy) -> None:
    simulation = Simulation(World(), policy, make_options(policy, max_attempts=3))
    waits = []
    while not simulation.state.status.is_final:
        simulation.bus.clear()
        assert simulation.state.due_at is not None
        waits.append((simulation.state.due_at - simulation.now).total_seconds())
        simulation.wait(waits[-1])
    assert waits == [60.0, 120.0, 240.0]
    assert simulation.state.status is Status.FAILED
    assert simulation.state.failure is not None
    assert simulation.state.failure.code == "attempts_exhausted"


def test_a_problem_can_be_asked_for_any_number_of_times() -> None:
    policy = POLICIES["threshold 0.5"]
    simulation = Simulation(World(), policy, make_options(policy, max_attempts=200))
    while not simulation.state.status.is_final:
        simulation.bus.clear()
        assert simulation.state.due_at is not None
        simulation.now = simulation.state.due_at
        simulation.wait(0)
    assert simulation.state.attempts == 199
