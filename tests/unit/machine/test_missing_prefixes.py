"""A worker hands back a command whose prefix it does not know; the state completes it, or books what it cost."""

from __future__ import annotations

import pytest

from shared.machine.commands import complete
from shared.machine.state import CancelRequested, State
from shared.messages import Command, PrefixMissing, ScoreSteps, derive_id
from tests.unit.machine.histories import PROBLEM_ID, command_of, drafts_of, feed, generated, running, scored

TEXTS = ("one", "two", "three", "four")


def after_steps() -> State:
    """Return a problem with four steps."""
    state = running()
    for text in TEXTS:
        (draft,) = drafts_of(command_of(state), text)
        state = feed(state, scored(draft, scores=(1.0,)))
    return state


def scoring_of(state: State, *texts: str) -> ScoreSteps:
    """Return the command to score drafts of the present request, with its whole prefix."""
    command = command_of(state)
    shared = command.model_dump(include={"problem_id", "epoch", "issued_at", "expires_at", "request_number"})
    return ScoreSteps(
        id=derive_id(command.id, "score"),
        step_timeout_s=command.step_timeout_s,
        question=command.question,
        prefix=command.prefix,
        prefix_digest=command.prefix_digest,
        drafts=tuple(drafts_of(command, *texts)),
        **shared,
    )


def missing(command: Command) -> PrefixMissing:
    return PrefixMissing(
        id=derive_id(command.id, "missing"), problem_id=PROBLEM_ID, epoch=command.epoch, command=command
    )


@pytest.mark.parametrize("omit", range(5))
def test_a_command_is_completed_from_the_steps(omit: int) -> None:
    state = after_steps()
    for command in (command_of(state), scoring_of(state, "five")):
        handed_back = command.with_prefix(command.prefix, omit=omit)
        assert handed_back.first_step == 4
        assert complete(state, handed_back) == command
        assert feed(state, missing(handed_back)) is state


def test_a_command_is_completed_from_drafts_that_are_not_decided() -> None:
    state = running(lookahead=2)
    first, *others = drafts_of(command_of(state), *TEXTS[:3])
    state = feed(state, generated(first, *others), scored(first, scores=(1.0,)))
    ahead = command_of(state)
    assert (len(state.steps), ahead.prefix) == (1, TEXTS[:3])
    assert complete(state, ahead.with_prefix(ahead.prefix, omit=1)) == ahead


def test_a_command_of_another_branch_is_not_completed() -> None:
    state = after_steps()
    command = command_of(state).model_copy(update={"prefix_digest": "0123456789abcdef"})
    assert complete(state, command.with_prefix(command.prefix, omit=2)) is None
    ahead = command_of(state).model_copy(update={"omitted_steps": 9})
    assert complete(state, ahead) is None, "these steps are not known"


def test_drafts_whose_scoring_nobody_can_complete_are_wasted_once() -> None:
    state = after_steps()
    scoring = scoring_of(state, "five")
    command = command_of(state)
    cancelled = feed(state, CancelRequested())
    assert complete(cancelled, scoring) is None
    event = missing(scoring.with_prefix(scoring.prefix, omit=2))
    wasted = feed(cancelled, event, event)
    assert (cancelled.ledger.small_wasted, wasted.ledger.small_wasted) == (0, 5)
    generate = missing(command.with_prefix(command.prefix, omit=2))
    assert feed(cancelled, generate) is cancelled, "it has cost nothing"
