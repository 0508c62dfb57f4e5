"""What a worker publishes for a command that it cannot finish, and when it settles the command."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from services.generator import writing
from services.generator.writing import Writing
from shared.cancellation import Cancellation, Cancelled
from shared.clock import SYSTEM_CLOCK
from shared.domain.drafts import UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead, EngineFailed, GeneratedStep, GenerationRequest, Meter, RequestRefused
from shared.messages import GenerateSteps, ScoreSteps, StepsScored, WorkCancelled, WorkFailed
from shared.worker import execution
from shared.worker.execution import Executor
from shared.worker.running_work import RunningWork
from tests.unit.worker.working import Outbox, Scripted, carry_out, golden

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
    [failed] = carry_out(SCORING, Scripted(scores=1))
    assert isinstance(failed, WorkFailed)
    assert (failed.code, failed.retryable) == ("bad_scores", False)
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


def executed(
    engine: Scripted,
    outbox: Outbox,
    *,
    must_requeue: bool = False,
    running: RunningWork | None = None,
    settled: list[bool] | None = None,
) -> str:
    """Carry out a command as a process does; return how it is settled."""
    settled = [] if settled is None else settled

    executor = Executor(
        role=WorkerRole.SMALL,
        worker="worker-1",
        clock=SYSTEM_CLOCK,
        begin=partial(Writing, engine=engine),
        running=running or RunningWork(),
        must_requeue=lambda: must_requeue,
    )
    now = SYSTEM_CLOCK.now()
    command = golden(GenerateSteps, reports_stretch=False, issued_at=now, expires_at=now + timedelta(minutes=1))
    for _ in executor.carry_out(command, publisher=outbox, settle=lambda *, requeue: settled.append(requeue)):
        pass
    if not settled:
        return "unsettled"
    assert len(settled) == 1
    return "requeued" if settled[0] else "acknowledged"


def test_a_command_is_acknowledged_once_its_results_are_confirmed() -> None:
    assert executed(Scripted("One."), Outbox()) == "acknowledged"
    assert executed(Scripted("One."), Outbox(confirms=False)) == "unsettled"
    assert executed(Scripted(EngineFailed()), Outbox()) == "acknowledged", "its failure is reported"


def test_a_command_of_a_process_that_stops_is_requeued() -> None:
    running = RunningWork()
    outbox = Outbox()
    cancel: Callable[[], None] = running.cancel_all
    assert executed(Scripted("One.", cancel, "Two."), outbox, running=running, must_requeue=True) == "requeued"
    assert [type(message) for message in outbox.messages] == [ScoreSteps], "another worker repeats the rest"


def test_a_command_whose_engine_died_is_requeued_and_the_process_is_notified() -> None:
    settled: list[bool] = []
    with pytest.raises(EngineDead):
        executed(Scripted(EngineDead()), Outbox(), settled=settled)
    assert settled == [True]


def test_a_command_whose_failure_cannot_be_reported_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_parts: object, **_fields: object) -> None:
        raise ValueError

    monkeypatch.setattr(execution, "WorkFailed", refuse)
    settled: list[bool] = []
    with pytest.raises(ValueError):  # noqa: PT011 - it has no words
        executed(Scripted(EngineFailed()), Outbox(), settled=settled)
    assert settled == [True]


def test_running_work_receives_a_cancel_and_is_forgotten_when_it_ends() -> None:
    running = RunningWork()
    outbox = Outbox()

    def cancel() -> None:
        assert running.count == 1
        running.cancel(COMMAND.problem_id, before_epoch=COMMAND.epoch + 1, now=SYSTEM_CLOCK.now())

    assert executed(Scripted("One.", cancel, "Two."), outbox, running=running) == "acknowledged"
    assert [type(message) for message in outbox.messages] == [ScoreSteps, WorkCancelled]
    assert running.count == 0
    with pytest.raises(Cancelled), running.track(COMMAND) as cancellation:
        cancellation.raise_if_cancelled()


def test_a_command_of_a_cancelled_epoch_is_carried_out_if_it_was_issued_later() -> None:
    """A database that was restored to an earlier time returns problems to an earlier epoch."""
    running = RunningWork()
    running.cancel(COMMAND.problem_id, before_epoch=COMMAND.epoch + 1, now=COMMAND.issued_at)
    later = COMMAND.model_copy(update={"issued_at": COMMAND.issued_at + timedelta(milliseconds=1)})
    with running.track(COMMAND) as arrived_late, running.track(later) as issued_late:
        assert (arrived_late.is_cancelled, issued_late.is_cancelled) == (True, False)
