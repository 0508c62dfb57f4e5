"""The simulated service: many problems, time, cancellations, crashes and limits, through the real code."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from threading import Event
from uuid import UUID

import pytest

import services.generator.writing
import shared.machine.requesting
from shared.bus.topology import EVENTS
from shared.cancellation import Cancellation
from shared.domain.options import Limits, Options
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status, StopReason
from shared.domain.text import text_bytes
from shared.engines.port import EngineDead, GeneratedStep, GenerationRequest, Meter, RequestRefused
from shared.messages import GenerateSteps, ScoreSteps, StepsGenerated, StepsScored, WorkCancelled, WorkFailed, derive_id
from shared.policies.registry import build_policy
from simulation.clock import START
from simulation.disturbed import DisturbedService
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer

THRESHOLD = build_policy("threshold", {"threshold": 0.5})
SMALL_ONLY = build_policy("small-only", {})
LARGE_ONLY = build_policy("large-only", {})
ENDLESS = World(ends=0, boxes=0, repeats=0, says_nothing=0, runs_long=0, scores_badly=0)
"""No step ends a solution here."""


def essence(service: SimulatedService, problem_id: UUID) -> tuple[object, ...]:
    state = service.state(problem_id)
    return state.status, state.stop_reason, [step.text for step in state.steps], state.ledger.large_out


def test_problems_of_several_tenants_are_admitted_in_turn_and_solved_as_if_each_was_alone() -> None:
    together = DisturbedService(World(seed=3), window=3)
    tenants = [UUID(int=number) for number in (1, 1, 1, 1, 2, 3)]
    ids = [together.submit(f"What is {number}?", THRESHOLD, tenant=tenant) for number, tenant in enumerate(tenants)]
    together.sweep()
    running = [each for each in ids if together.state(each).status is Status.RUNNING]
    assert running == [ids[0], ids[4], ids[5]], "one of each tenant"
    together.settle()
    for number, problem_id in enumerate(ids):
        alone = DisturbedService(World(seed=3))
        its_id = alone.submit(f"What is {number}?", THRESHOLD)
        alone.run()
        assert essence(together, problem_id) == essence(alone, its_id)


def test_an_interruption_right_after_a_lock_was_taken_ends_the_run() -> None:
    """The threads of the run need the lock before they end; they are at work while it is taken."""
    taken, world = Event(), World(seed=5)

    class Waiting(WorldGenerator):
        def stream(
            self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
        ) -> Generator[GeneratedStep, None, None]:
            taken.wait(60)
            return super().stream(request, cancellation, meter)

    def interrupted(_open: int) -> None:
        service.bus.changed.acquire()
        taken.set()
        raise KeyboardInterrupt

    small, large = Waiting(world, Author.SMALL), WorldGenerator(world, Author.LARGE)
    service = SimulatedService(Engines(small=small, large=large, prm=WorldScorer(world)))
    service.submit("What is 0?", THRESHOLD)
    with pytest.raises(KeyboardInterrupt):
        service.run(threads=2, tell=interrupted)


@pytest.mark.parametrize("lookahead", [0, 4])
def test_threads_give_the_solutions_of_a_run_step_by_step(lookahead: int) -> None:
    world, found = World(seed=5), []
    for threads in (0, 8):
        engines = Engines(
            small=WorldGenerator(world, Author.SMALL), large=WorldGenerator(world, Author.LARGE), prm=WorldScorer(world)
        )
        service = SimulatedService(engines, window=10)
        ids = [service.submit(f"What is {n}?", THRESHOLD, Options(lookahead=lookahead)) for n in range(40)]
        service.run(threads=threads)
        found.append([essence(service, each) for each in ids])
        assert not service.store.open_problems
        assert not service.running
    assert found[0] == found[1]


def test_confidence_routes_without_a_prm_and_only_its_drafts_carry_log_probabilities() -> None:
    world, seen = World(seed=8, hides_confidence=0.2), set[str]()
    engines = Engines(small=WorldGenerator(world, Author.SMALL), large=WorldGenerator(world, Author.LARGE), prm=None)
    service = SimulatedService(engines)
    routed = [service.submit(f"What is {n}?", build_policy("confidence", {"threshold": 0.5})) for n in range(20)]
    kept = service.submit("What is 20?", SMALL_ONLY)
    service.run()
    for problem_id in routed:
        state = service.state(problem_id)
        for record in state.decisions:
            assert record.draft is not None
            known = world.logprobs(
                Author.SMALL, state.question, tuple(step.text for step in state.steps[: record.step])
            )
            assert (record.draft.mean_logprob, record.draft.min_logprob) == known
            assert (record.observation.mean_logprob, record.observation.min_logprob) == known
            seen.add(record.decision.reason)
    assert {"confidence_below_threshold", "confidence_at_least_threshold", "no_confidence"} <= seen
    assert {record.draft and record.draft.mean_logprob for record in service.state(kept).decisions} == {None}


@pytest.mark.parametrize("threads", [0, 2])
def test_an_engine_that_crashes_ends_a_run(threads: int) -> None:
    world = World()
    small = WorldGenerator(world, Author.SMALL)
    service = SimulatedService(Engines(small=small, large=WorldGenerator(world, Author.LARGE), prm=None))
    service.submit("What?", SMALL_ONLY)
    with small.broken(EngineDead()), pytest.raises(EngineDead):
        service.run(threads=threads)
    service.run()
    assert not service.store.open_problems, "another worker takes its command"


def test_a_command_that_a_worker_takes_too_late_is_dropped_and_the_steps_are_requested_again() -> None:
    service = DisturbedService(World())
    problem_id = service.submit("What?", SMALL_ONLY)
    service.sweep()
    service.clock.advance(61)
    service.deliver()
    service.work()
    assert service.running == []
    assert service.bus.letters == []
    service.sweep()
    [again] = service.bus.letters
    assert isinstance(again.message, GenerateSteps)
    assert again.message.request_number == 1
    assert again.message.issued_at == START + timedelta(seconds=61)
    service.settle()
    assert service.state(problem_id).status is Status.SUCCEEDED


def test_drafts_whose_scoring_expired_are_lost_booked_and_written_again() -> None:
    service = DisturbedService(ENDLESS)
    problem_id = service.submit("What?", THRESHOLD, Options(limits=Limits(max_steps=1)))
    service.sweep()
    service.deliver()
    service.work()
    service.clock.advance(61)
    [scoring] = [place for place, letter in enumerate(service.bus.letters) if letter.queue is WorkerRole.PRM]
    service.deliver(scoring)
    service.work(1)
    [failed] = [message for message in service.bus.history if isinstance(message, WorkFailed)]
    assert (failed.code, len(failed.drafts)) == ("scores_too_late", 1)
    service.settle()
    state = service.state(problem_id)
    assert state.status is Status.SUCCEEDED
    assert state.ledger.small_wasted == failed.drafts[0].tokens


def test_a_scoring_has_as_much_time_as_the_command_that_wrote_its_drafts() -> None:
    service = DisturbedService(ENDLESS)
    service.submit("What?", THRESHOLD, Options(step_timeout_s=30.0))
    service.sweep()
    service.clock.advance(20)
    service.deliver()
    service.work()
    [scoring] = [message for message in service.bus.history if isinstance(message, ScoreSteps)]
    assert scoring.issued_at == START + timedelta(seconds=20)
    assert scoring.expires_at == START + timedelta(seconds=50)


@pytest.mark.parametrize("what", ["cancel", "expire"])
def test_work_of_a_problem_that_ends_early_is_cancelled_and_what_it_used_is_booked(what: str) -> None:
    service = DisturbedService(replace(ENDLESS, estimates=0.0))
    deadline_at = START + timedelta(seconds=5) if what == "expire" else None
    options = Options(lookahead=None, deadline_at=deadline_at)
    problem_id = service.submit("What?", SMALL_ONLY, options)
    service.sweep()
    service.deliver()
    service.work()
    if what == "cancel":
        service.cancel(problem_id)
    service.wait(5)
    service.settle()
    state = service.state(problem_id)
    assert state.status is (Status.CANCELLED if what == "cancel" else Status.EXPIRED)
    [cancelled] = [message for message in service.bus.history if isinstance(message, WorkCancelled)]
    assert cancelled.unfinished is not None
    [generated] = [message for message in service.bus.history if isinstance(message, StepsGenerated)]
    assert state.ledger.small_wasted == generated.drafts[0].tokens + cancelled.unfinished.tokens


def test_estimated_tokens_of_cancelled_work_are_in_no_sum() -> None:
    service = DisturbedService(replace(ENDLESS, estimates=1.0))
    problem_id = service.submit("What?", SMALL_ONLY, Options(lookahead=None))
    service.sweep()
    service.deliver()
    service.work()
    service.cancel(problem_id)
    service.sweep()
    service.settle()
    [cancelled] = [message for message in service.bus.history if isinstance(message, WorkCancelled)]
    ledger = service.state(problem_id).ledger
    assert ledger.small_estimated == cancelled.unfinished.estimated_tokens > 0


def test_failed_work_is_booked_and_requested_again() -> None:
    service = DisturbedService(replace(ENDLESS, estimates=0.0))
    problem_id = service.submit("What?", THRESHOLD, Options(limits=Limits(max_steps=2)))
    service.sweep()
    service.fail()
    [failed] = [message for message in service.bus.history if isinstance(message, WorkFailed)]
    assert failed.unfinished is not None
    service.settle()
    state = service.state(problem_id)
    assert (state.status, len(state.steps)) == (Status.SUCCEEDED, 2)
    assert state.ledger.small_wasted == failed.unfinished.tokens > 0


@pytest.mark.parametrize("lookahead", [0, 1, 4, None])
@pytest.mark.parametrize("policy", [THRESHOLD, SMALL_ONLY, LARGE_ONLY], ids=lambda policy: policy.name)
def test_a_solution_that_outgrows_a_message_ends_with_the_steps_that_it_has(
    monkeypatch: pytest.MonkeyPatch, policy: object, lookahead: int | None
) -> None:
    for module in (shared.machine.requesting, services.generator.writing):
        monkeypatch.setattr(module, "MAX_PREFIX_BYTES", 100)
    service = DisturbedService(ENDLESS)
    problem_id = service.submit("What?", policy, Options(lookahead=lookahead))  # type: ignore[arg-type]
    service.settle()
    state = service.state(problem_id)
    assert (state.status, state.stop_reason) == (Status.SUCCEEDED, StopReason.SIZE_LIMIT)
    texts = [step.text for step in state.steps]
    assert text_bytes("What?", *texts) >= 100 > text_bytes("What?", *texts[:-1])
    for message in service.bus.history:
        if isinstance(message, GenerateSteps | ScoreSteps):
            written = message.drafts[:-1] if isinstance(message, ScoreSteps) else ()
            texts = [message.question, *message.prefix, *(draft.text for draft in written)]
            assert text_bytes(*texts) < 100, "a message holds more than the limit and one step"
        elif isinstance(message, StepsGenerated | StepsScored):
            assert text_bytes(*(draft.text for draft in message.drafts[:-1])) < 100


def test_commands_lost_between_commit_and_publication_come_back_with_the_redelivered_event() -> None:
    service = DisturbedService(ENDLESS)
    problem_id = service.submit("What?", SMALL_ONLY, Options(limits=Limits(max_steps=2)))
    service.sweep()
    service.deliver()
    service.work()
    service.deliver(crashes=True)
    service.work()
    assert [letter.queue for letter in service.bus.letters] == [EVENTS]
    assert len(service.state(problem_id).steps) == 1, "it was committed"
    service.settle()
    assert service.state(problem_id).stop_reason is StopReason.MAX_STEPS
    assert service.clock.now == START, "nothing had to become overdue"


def test_commands_of_a_sweep_that_were_lost_are_requested_again_when_overdue() -> None:
    service = DisturbedService(ENDLESS)
    problem_id = service.submit("What?", SMALL_ONLY, Options(limits=Limits(max_steps=1)))
    service.sweep(crashes=True)
    assert service.bus.letters == []
    service.settle()
    assert service.state(problem_id).status is Status.SUCCEEDED
    assert service.clock.now == START + timedelta(seconds=60)


def test_a_worker_that_crashes_loses_what_it_has_not_published() -> None:
    service = DisturbedService(ENDLESS)
    service.submit("What?", SMALL_ONLY, Options(lookahead=None))
    service.sweep()
    service.deliver()
    service.work(holds=True)
    service.work(holds=True)
    service.crash_worker()
    generated = [message for message in service.bus.history if isinstance(message, StepsGenerated)]
    assert [len(message.drafts) for message in generated] == [1], "the second draft was held back"
    [command] = [letter for letter in service.bus.letters if letter.queue is WorkerRole.SMALL]
    assert command.delivered().is_redelivered


def test_a_problem_that_an_orchestrator_cannot_read_fails_and_stops_no_other() -> None:
    service = DisturbedService(World(seed=1))
    unreadable, good = (service.submit(question, SMALL_ONLY) for question in ("What?", "Who?"))
    service.store.damage(unreadable, "KeyError")
    service.settle()
    failure = service.state(unreadable).failure
    assert failure is not None
    assert failure.code == "unreadable"
    assert service.state(good).status is Status.SUCCEEDED


def test_a_message_for_an_unknown_problem_is_a_dead_letter() -> None:
    service = DisturbedService(World())
    forged = WorkFailed(
        id=derive_id("forged"), problem_id=UUID(int=99), epoch=0, role=WorkerRole.SMALL, request_number=0, code="x",
        detail="X.", retryable=False, worker="w",
    )  # fmt: skip
    service.bus.publish(forged)
    with pytest.raises(AssertionError, match="there is no such problem"):
        service.deliver()
    service.accepts_dead_letters = True
    service.bus.publish(forged)
    service.deliver()
    assert [each.reason for each in service.bus.dead_letters] == ["there is no such problem"]


def test_a_permanent_failure_of_requested_work_fails_the_problem() -> None:
    service = DisturbedService(World())
    problem_id = service.submit("What?", SMALL_ONLY)
    service.sweep()
    [letter] = service.bus.take_all()
    assert isinstance(letter.message, GenerateSteps)
    service.refuse(letter.message, RequestRefused())
    service.settle()
    failure = service.state(problem_id).failure
    assert failure is not None
    assert failure.code == "request_refused"
