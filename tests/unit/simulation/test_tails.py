"""Commands carry as much of a prefix as their workers may lack; what they lack all the same is brought to them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest

from services.orchestrator.tails import Tails, lengthen
from shared.domain.options import Options
from shared.domain.roles import Author, WorkerRole
from shared.machine.state import State
from shared.messages import GenerateSteps, PrefixMissing, ScoreSteps
from shared.policies.threshold import Threshold
from simulation.disturbed import DisturbedService
from simulation.world import World
from tests.unit.machine.histories import command_of, drafts_of, feed, generated, running, scored


def long_state(*large: int) -> State:
    """Return a problem with 29 steps, of which some are the large model's."""
    state = running()
    for index in range(29):
        if index in large:
            state = drafted(state, score=0.0)
        state = drafted(state, score=1.0)
    return state


def drafted(state: State, *, score: float) -> State:
    """Have the requested step written, and scored if it is a draft."""
    command = command_of(state)
    (draft,) = drafts_of(command, f"Step {command.first_step} by {command.author}, {score}.")
    if draft.author is Author.LARGE:
        return feed(state, generated(draft, epoch=state.epoch))
    return feed(state, scored(draft, scores=(score,), epoch=state.epoch))


@pytest.mark.parametrize(
    ("workers", "carried", "scored_prefix"),
    [
        ({}, 29, None),
        ({WorkerRole.LARGE: 1}, 29, None),
        ({WorkerRole.SMALL: 1}, 8, None),
        ({WorkerRole.SMALL: 1, WorkerRole.PRM: 1}, 8, 8),
        ({WorkerRole.SMALL: 12, WorkerRole.PRM: 15}, 12, 15),
        ({WorkerRole.SMALL: 100}, 29, None),
        ({WorkerRole.SMALL: 1, WorkerRole.PRM: 29}, 8, 29),
        ({WorkerRole.SMALL: 1, WorkerRole.PRM: 30}, 8, None),
    ],
)
def test_a_tail_grows_with_the_workers_that_share_a_queue(
    workers: dict[WorkerRole, int], carried: int, scored_prefix: int | None
) -> None:
    state = long_state()
    whole = command_of(state)
    assert len(whole.prefix) == 29
    command = Tails(workers).shorten(whole, state)
    assert command.prefix == whole.prefix[29 - carried :]
    assert (command.first_step, command.omitted_steps) == (29, 29 - carried)
    assert command.scored_prefix == scored_prefix
    assert command.prefix_digest == whole.prefix_digest


def test_a_tail_to_the_large_model_reaches_back_over_its_last_steps() -> None:
    state = drafted(long_state(3, 7, 11), score=0.0)
    command = command_of(state)
    assert command.author is Author.LARGE
    three, four = (Tails({WorkerRole.LARGE: count}).shorten(command, state) for count in (3, 4))
    assert three.omitted_steps == 3, "the third of its steps, counted from the last"
    assert four.omitted_steps == 0, "it has written three"


def missing(whole: GenerateSteps, *, known: int, losses: int = 0) -> PrefixMissing:
    return PrefixMissing(
        id=whole.id,
        problem_id=whole.problem_id,
        epoch=whole.epoch,
        command=whole.with_prefix(whole.prefix, omit=27),
        known_steps=known,
        losses=losses,
    )


def test_a_command_comes_back_with_what_its_worker_lacks() -> None:
    whole = command_of(long_state())
    longer = lengthen(whole, missing=missing(whole, known=21))
    assert (longer.first_step, longer.omitted_steps, longer.prefix) == (29, 21, whole.prefix[21:])
    assert lengthen(whole, missing=missing(whole, known=0)) == whole
    assert lengthen(whole, missing=missing(whole, known=21, losses=1)) == whole, "it may have to run alone"


def solved(lookahead: int | None, workers: Mapping[WorkerRole, int]) -> tuple[DisturbedService, list[State]]:
    """Solve some long problems at the same time."""
    world = World(seed=2, ends=0.01, boxes=0, repeats=0, says_nothing=0, runs_long=0, scores_badly=0)
    service = DisturbedService(world)
    service.tails.workers = workers
    options = Options(lookahead=lookahead)
    ids = [service.submit(f"What is {number}?", Threshold(threshold=0.3), options) for number in range(4)]
    service.run()
    return service, [service.state(each) for each in ids]


def texts_of(state: State) -> list[str]:
    return [step.text for step in state.steps]


@pytest.mark.parametrize("lookahead", [0, 4, None])
def test_workers_that_forget_get_what_they_lack_and_write_the_same(lookahead: int | None) -> None:
    service, states = solved(lookahead, dict.fromkeys(WorkerRole, 1))
    undisturbed, whole = solved(lookahead, {})
    assert any(isinstance(each, GenerateSteps | ScoreSteps) and each.omitted_steps for each in service.bus.history)
    assert PrefixMissing in map(type, service.bus.history)
    assert PrefixMissing not in map(type, undisturbed.bus.history)
    assert max(len(each.steps) for each in whole) == 30
    assert [texts_of(each) for each in states] == [texts_of(each) for each in whole]


def until_missing(kind: type[GenerateSteps | ScoreSteps]) -> tuple[DisturbedService, UUID, int]:
    """Work until a worker has handed back a command; return the problem, and the place of the event on the bus."""
    service = DisturbedService(World(seed=3, ends=0, boxes=0, repeats=0, says_nothing=0, runs_long=0, scores_badly=0))
    problem_id = service.submit("What?", Threshold(threshold=0.1))
    service.sweep()
    while True:
        for place, letter in enumerate(service.bus.letters):
            if isinstance(letter.message, PrefixMissing) and isinstance(letter.message.command, kind):
                return service, problem_id, place
        assert service.turn()


def test_a_redelivered_event_that_lacks_a_prefix_has_its_command_published_once() -> None:
    service, _, place = until_missing(GenerateSteps)
    service.bus.letters[place].deliveries = 1
    service.deliver(place)
    published = [letter.message for letter in service.bus.letters if isinstance(letter.message, GenerateSteps)]
    assert len(published) == 1
    service.run()


def test_drafts_that_nobody_can_score_any_more_are_booked_once() -> None:
    service, problem_id, place = until_missing(ScoreSteps)
    event = service.bus.letters[place].message
    service.cancel(problem_id)
    service.sweep()
    service.deliver(place)
    wasted = service.state(problem_id).ledger.small_wasted
    assert wasted > 0
    service.bus.resend(event, is_redelivery=True)
    service.run()
    assert service.state(problem_id).ledger.small_wasted == wasted
