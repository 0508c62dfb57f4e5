"""What a worker publishes for a command that it cannot finish, and when it settles the command."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial

import pytest

from services.generator import writing
from shared.cancellation import Cancellation
from shared.domain.drafts import UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.engines.port import (
    BadScores,
    EngineFailed,
    GeneratedStep,
    GenerationRequest,
    Meter,
    RequestRefused,
)
from shared.errors import Fault
from shared.messages import GenerateSteps, ScoreSteps, StepsScored, WorkCancelled, WorkFailed
from shared.worker.fitness import MAX_DETAIL
from simulation.clock import SettableClock
from tests.unit.worker.working import Judged, Scripted, carry_out, golden

BODY = b'{"kind": "generate_steps", "of_a_newer_version": 1}'
COMMAND = golden(GenerateSteps, reports_stretch=False)
SCORING = golden(ScoreSteps)


def test_a_failure_names_the_first_step_that_was_not_written() -> None:
    *sent, failed = carry_out(COMMAND, Scripted("One.", "Two.", EngineFailed()))
    assert [len(message.drafts) for message in sent if isinstance(message, ScoreSteps)] == [1, 1]
    assert isinstance(failed, WorkFailed)
    assert (failed.role, failed.step, failed.code, failed.retryable) == ("small", 4, "engine_failed", True)
    assert failed.request_number == COMMAND.request_number


def test_a_failure_before_the_first_step_names_that() -> None:
    [failed] = carry_out(COMMAND, Scripted(RequestRefused()))
    assert isinstance(failed, WorkFailed)
    assert (failed.step, failed.code, failed.retryable) == (2, "request_refused", False)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RequestRefused(), Fault.INPUT),
        (EngineFailed(), Fault.PASSING),
        (KeyError(), Fault.PASSING),
        (BadScores(), Fault.PASSING),
    ],
)
def test_a_failure_states_whose_fault_it_is(error: Exception, fault: Fault) -> None:
    *_, failed = carry_out(COMMAND, Scripted(error))
    assert isinstance(failed, WorkFailed)
    assert (failed.fault, failed.retryable) == (fault, fault is not Fault.INPUT)


def test_a_failure_reports_what_the_engine_used_past_the_last_finished_step() -> None:
    [failed] = carry_out(COMMAND, Scripted(EngineFailed()))
    assert isinstance(failed, WorkFailed)
    assert failed.unfinished == UnfinishedWork(role=WorkerRole.SMALL, tokens=2, input_tokens=20, opens_call=True)
    *_, failed = carry_out(COMMAND, Scripted("One.", EngineFailed()))
    assert isinstance(failed, WorkFailed)
    assert failed.unfinished == UnfinishedWork(role=WorkerRole.SMALL, tokens=2, opens_call=False)
    [failed] = carry_out(SCORING, Scripted(EngineFailed()))
    assert isinstance(failed, WorkFailed)
    assert failed.unfinished == UnfinishedWork(role=WorkerRole.PRM, tokens=4, opens_call=True)


@pytest.mark.parametrize("asks", [True, False])
def test_drafts_carry_the_log_probabilities_that_the_command_asks_for(asks: bool) -> None:
    class Confident(Scripted):
        def stream(
            self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
        ) -> Generator[GeneratedStep, None, None]:
            for step in super().stream(request, cancellation, meter):
                yield replace(step, mean_logprob=-0.5, min_logprob=-2.0) if request.reports_confidence else step

    [sent] = carry_out(COMMAND.model_copy(update={"reports_confidence": asks}), Confident("One."))
    assert isinstance(sent, ScoreSteps)
    assert [(draft.mean_logprob, draft.min_logprob) for draft in sent.drafts] == [
        (-0.5, -2.0) if asks else (None, None)
    ]


def test_cancelled_writing_reports_its_cost_and_publishes_the_steps_that_were_finished() -> None:
    cancellation = Cancellation()
    first, cancelled = carry_out(COMMAND, Scripted("One.", cancellation.cancel, "Two."), cancellation=cancellation)
    assert isinstance(first, ScoreSteps)
    assert isinstance(cancelled, WorkCancelled)
    assert cancelled.unfinished == UnfinishedWork(role=WorkerRole.SMALL, tokens=2, opens_call=False)


def test_a_step_that_a_cancel_overtakes_is_published_because_its_tokens_are_spent() -> None:
    """An engine that runs ahead of the worker has finished the step before it receives the cancel."""
    cancellation = Cancellation()

    class RunsAhead(Scripted):
        def stream(self, *arguments: object) -> object:  # type: ignore[override]
            for step in super().stream(*arguments):  # type: ignore[arg-type]
                cancellation.cancel()
                yield step

    [first, *others] = carry_out(COMMAND, RunsAhead("One."), cancellation=cancellation)
    assert isinstance(first, ScoreSteps)
    assert [draft.tokens for draft in first.drafts] == [3]
    assert others == []


def test_cancelled_writing_that_used_nothing_reports_nothing() -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    class Idle(Scripted):
        def stream(self, *arguments: object) -> object:  # type: ignore[override]
            cancellation.raise_if_cancelled()
            yield

    assert carry_out(COMMAND, Idle(), cancellation=cancellation) == []


def test_scores_that_come_too_late_are_reported_with_their_drafts_and_tokens() -> None:
    cancellation = Cancellation()
    [failed] = carry_out(SCORING, Scripted(cancellation.cancel), cancellation=cancellation)
    assert isinstance(failed, WorkFailed)
    assert (failed.role, failed.code, failed.retryable) == ("prm", "scores_too_late", True)
    assert (failed.drafts, failed.step, failed.request_number) == (SCORING.drafts, 2, SCORING.request_number)
    assert failed.unfinished == UnfinishedWork(role=WorkerRole.PRM, tokens=9, opens_call=True)


@pytest.mark.parametrize("late_s", [60.0, 61.0])
def test_a_command_is_dropped_once_it_has_expired(late_s: float) -> None:
    engine = Scripted("One.")
    published = carry_out(COMMAND, engine, late_s=late_s)
    assert (engine.calls, len(published)) == ((1, 1) if late_s == 60 else (0, 0))
    [message] = carry_out(SCORING, Scripted(), late_s=late_s)
    if late_s == 60:
        assert isinstance(message, StepsScored)
    else:
        assert isinstance(message, WorkFailed)
        assert (message.code, message.drafts, message.unfinished) == ("scores_too_late", SCORING.drafts, None)


def test_a_wrong_number_of_scores_is_a_failure_that_names_what_it_cost() -> None:
    *tries, failed = carry_out(SCORING, Scripted(scores=1))
    assert [each.unfinished.tokens for each in tries if isinstance(each, WorkCancelled)] == [9, 9]
    assert len({each.id for each in tries if isinstance(each, WorkCancelled)}) == 2, "both are booked"
    assert isinstance(failed, WorkFailed)
    assert (failed.code, failed.retryable) == ("bad_scores", True)
    assert failed.unfinished is not None
    assert failed.unfinished.tokens == 9


def test_an_unexpected_error_is_reported_without_its_words() -> None:
    [failed] = carry_out(COMMAND, Scripted(KeyError("secret")))
    assert isinstance(failed, WorkFailed)
    assert (failed.code, failed.detail, failed.retryable) == ("internal", "The small worker failed (KeyError).", True)


def test_a_nul_in_a_models_text_becomes_a_replacement_character_that_the_database_can_store() -> None:
    [scoring] = carry_out(COMMAND, Scripted("A\x00B."))
    assert isinstance(scoring, ScoreSteps)
    assert [draft.text for draft in scoring.drafts] == ["A\N{REPLACEMENT CHARACTER}B."]


class RunsAhead(Scripted):
    """Has decoded the beginning of a further step whenever a step is finished."""

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        for step in super().stream(request, cancellation, meter):
            meter.tokens = 7
            yield step
        meter.clear()


@pytest.mark.parametrize("limit", [10_000, 20])
def test_a_stretch_that_ends_at_the_size_limit_reports_what_the_engine_wrote_ahead(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(writing, "MAX_PREFIX_BYTES", limit)
    published = carry_out(COMMAND, RunsAhead("One.", "Two."))
    drafts = [draft for message in published if isinstance(message, ScoreSteps) for draft in message.drafts]
    cancelled = [message.unfinished for message in published if isinstance(message, WorkCancelled)]
    if limit == 20:
        assert [draft.text for draft in drafts] == ["One."], "question and prefix are as large as a message may be"
        assert cancelled == [UnfinishedWork(role=WorkerRole.SMALL, tokens=7, opens_call=False)]
    else:
        assert [draft.text for draft in drafts] == ["One.", "Two."]
        assert cancelled == []


# --- settling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "changes", "is_cut"),
    [
        (("One.", "Two.", "Three."), {}, True),
        (("One.", "Two."), {"max_steps": 2}, False),
        (("One.", "Two."), {"max_tokens": 6}, False),
        (("One.", "So it is \\boxed{7}."), {}, False),
        (("One.",), {}, False),
    ],
)
def test_a_stretch_that_takes_too_long_ends_after_the_step_at_hand(
    steps: tuple[str, ...], changes: dict[str, int], is_cut: bool
) -> None:
    time = SettableClock()
    script = [each for text in steps for each in (partial(time.advance, 10.0), text)]
    judge = Judged()
    command = COMMAND.model_copy(update=changes)
    sent = carry_out(command, Scripted(*script), judge=judge, monotonic=time.clock.monotonic, stretch_s=15)
    drafts = [draft.text for message in sent if isinstance(message, ScoreSteps) for draft in message.drafts]
    failures = [message for message in sent if isinstance(message, WorkFailed)]
    assert drafts == [*steps[:2]]
    assert judge.asked == 0, "the engine is not to blame"
    if is_cut:
        [failed] = failures
        assert (failed.step, failed.fault, failed.retryable) == (COMMAND.first_step + 2, Fault.WORKER, True)
        assert failed.code == "stretch_ended"
    else:
        assert failures == []


def test_the_sentence_of_a_failure_has_a_limit() -> None:
    [failed] = carry_out(COMMAND, Scripted(EngineFailed("x" * 100_000)))
    assert isinstance(failed, WorkFailed)
    assert len(failed.detail) == MAX_DETAIL
