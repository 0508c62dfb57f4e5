"""What a worker does with a command as a whole: it is settled, returned, requeued or tried again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from datetime import datetime, timedelta
from functools import partial

import pytest

from services.generator.writing import Writing
from shared.bus.connection import BrokerUnavailable
from shared.bus.topology import Past, ReturnedCommand
from shared.cancellation import Cancellation
from shared.clock import SYSTEM_CLOCK
from shared.domain.roles import WorkerRole
from shared.engines.openai.errors import ServerBusy, ServerUnavailable
from shared.engines.port import (
    EngineDead,
    EngineFailed,
    GeneratedStep,
    GenerationRequest,
    Meter,
    StepTimeout,
)
from shared.errors import Fault
from shared.messages import GenerateSteps, ScoreSteps, StepsScored, WorkCancelled, WorkFailed
from shared.worker import execution
from shared.worker.executor import Executor
from shared.worker.fitness import AlwaysFit, EngineStalled, Judge
from shared.worker.running_work import RunningWork
from tests.unit.worker.working import Judged, Outbox, Scripted, carry_out, golden

BODY = b'{"kind": "generate_steps", "of_a_newer_version": 1}'
COMMAND = golden(GenerateSteps, reports_stretch=False)
SCORING = golden(ScoreSteps)


def executed(
    engine: Scripted,
    outbox: Outbox,
    *,
    must_requeue: Callable[[], bool] = lambda: False,
    must_return: Callable[[], bool] = lambda: False,
    runs: int = 0,
    running: RunningWork | None = None,
    settled: list[bool] | None = None,
    judge: Judge | None = None,
    unfit_spans: Iterable[tuple[datetime, datetime]] | None = (),
    issued_ago_s: float = 0.0,
) -> str:
    """Carry out a command as a process does; return how it is settled."""
    settled = [] if settled is None else settled

    executor = Executor(
        role=WorkerRole.SMALL,
        worker="worker-1",
        clock=SYSTEM_CLOCK,
        begin=partial(Writing, engine=engine),
        running=running or RunningWork(),
        must_requeue=must_requeue,
        must_return=must_return,
        judge=judge or AlwaysFit(),
        unfit_spans=lambda: unfit_spans,
    )
    issued_at = SYSTEM_CLOCK.now() - timedelta(seconds=issued_ago_s)
    command = COMMAND.model_copy(update={"issued_at": issued_at, "expires_at": issued_at + timedelta(minutes=1)})
    for _ in executor.carry_out(
        command, BODY, publisher=outbox, settle=lambda *, requeue: settled.append(requeue), past=Past(runs=runs)
    ):
        pass
    if not settled:
        return "unsettled"
    assert len(settled) == 1
    return "requeued" if settled[0] else "acknowledged"


def test_a_command_is_acknowledged_once_its_results_are_confirmed() -> None:
    assert executed(Scripted("One."), Outbox()) == "acknowledged"
    assert executed(Scripted("One."), Outbox(confirms=False)) == "unsettled"
    assert executed(Scripted(EngineFailed()), Outbox()) == "acknowledged", "its failure is reported"


class Stop:
    """A process that stops, or whose engine breaks down, in the middle of a command."""

    def __init__(self) -> None:
        self.running = RunningWork()
        self.has_begun = False

    def __call__(self) -> None:
        self.has_begun = True
        self.running.cancel_all()


def test_a_command_that_a_stop_cancels_returns_and_does_not_count_as_lost() -> None:
    stop, outbox = Stop(), Outbox()
    settled = executed(Scripted(stop, "One."), outbox, running=stop.running, must_return=lambda: stop.has_begun, runs=2)
    assert settled == "acknowledged"
    assert outbox.returned == [ReturnedCommand(WorkerRole.SMALL, BODY, Past(runs=3, losses=0))]
    assert [type(message) for message in outbox.messages] == [WorkCancelled], "what it used is reported"


def test_a_command_that_a_stop_cancels_after_its_first_steps_reports_where_to_go_on() -> None:
    stop, outbox = Stop(), Outbox()
    executed(Scripted("One.", stop, "Two."), outbox, running=stop.running, must_return=lambda: stop.has_begun)
    *_, failed = outbox.messages
    assert isinstance(failed, WorkFailed)
    assert (failed.code, failed.fault, failed.step) == ("worker_stopped", Fault.WORKER, COMMAND.first_step + 1)
    assert outbox.returned == []


def test_a_command_that_begins_during_a_stop_returns_at_once() -> None:
    outbox, engine = Outbox(), Scripted("One.")
    assert executed(engine, outbox, must_return=lambda: True) == "acknowledged"
    assert (engine.calls, len(outbox.returned)) == (0, 1)


def test_a_command_that_runs_while_the_engine_breaks_down_is_requeued() -> None:
    stop, outbox = Stop(), Outbox()
    settled = executed(
        Scripted(stop, "One."), outbox, running=stop.running, must_requeue=lambda: stop.has_begun,
        must_return=lambda: stop.has_begun,
    )  # fmt: skip
    assert (settled, outbox.returned) == ("requeued", [])


def test_work_that_is_done_again_has_other_ids_which_are_the_same_for_any_worker() -> None:
    def ids(runs: int) -> set[object]:
        events = [*carry_out(COMMAND, Scripted("One.", EngineFailed()), runs=runs),
                  *carry_out(SCORING, Scripted(), runs=runs)]  # fmt: skip
        drafts = [draft.id for event in events if isinstance(event, ScoreSteps) for draft in event.drafts]
        scorings = [event.scoring.id for event in events if isinstance(event, StepsScored)]
        return {*drafts, *scorings, *(event.id for event in events)}

    assert [len(ids(runs)) for runs in range(4)] == [5, 5, 5, 5]
    assert len(ids(0) | ids(1) | ids(2) | ids(3)) == 20
    assert ids(2) == ids(2)


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


# --- whose fault ------------------------------------------------------------------------------------------------------


def test_a_command_that_fails_through_the_workers_fault_is_tried_again_if_the_worker_is_fit() -> None:
    class Flaky(Scripted):
        def stream(
            self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
        ) -> Generator[GeneratedStep, None, None]:
            self._script = (ServerUnavailable(),) if self.calls < execution.TRIES - 1 else ("One.",)
            yield from super().stream(request, cancellation, meter)

    judge, outbox = Judged(), Outbox()
    assert executed(Flaky(), outbox, judge=judge) == "acknowledged"
    assert [type(message) for message in outbox.messages] == [WorkCancelled, WorkCancelled, ScoreSteps]
    assert judge.notes == ["success"]


def test_a_call_that_fails_on_a_fit_worker_counts_as_an_attempt() -> None:
    judge, engine = Judged(), Scripted(ServerUnavailable())
    *_, failed = carry_out(COMMAND, engine, judge=judge)
    assert isinstance(failed, WorkFailed)
    assert (failed.fault, failed.retryable, failed.code) == (Fault.PASSING, True, "engine_unavailable")
    assert (engine.calls, judge.notes) == (execution.TRIES, ["engine_unavailable"])


def test_a_refusal_that_no_input_can_cause_never_counts_as_an_attempt() -> None:
    judge, outbox = Judged(), Outbox()
    assert executed(Scripted(ServerBusy("Too many.", wait_s=None)), outbox, judge=judge) == "acknowledged"
    assert (len(outbox.returned), judge.notes) == (1, ["engine_busy"])
    assert not any(isinstance(message, WorkFailed) for message in outbox.messages)


@pytest.mark.parametrize("engine", [Scripted(ServerUnavailable()), Scripted("One.")])
def test_an_unfit_worker_returns_a_command_as_it_arrived_and_acknowledges_it(engine: Scripted) -> None:
    outbox = Outbox()
    judge = Judged(unfit_at=0 if engine._script == ("One.",) else 1)
    assert executed(engine, outbox, judge=judge) == "acknowledged"
    assert [(each.role, each.body) for each in outbox.returned] == [("small", BODY)]
    assert not any(isinstance(message, WorkFailed) for message in outbox.messages)


def test_a_returned_command_is_requeued_if_it_cannot_be_published() -> None:
    outbox, settled = Outbox(confirms=False), list[bool]()
    executed(Scripted(), outbox, judge=Judged(unfit_at=0), settled=settled)
    assert settled == []
    outbox.confirm(BrokerUnavailable())
    assert settled == [True]


@pytest.mark.parametrize("unfit_at", [1, 100])
def test_a_command_whose_first_steps_are_published_reports_where_to_go_on(unfit_at: int) -> None:
    outbox, judge = Outbox(), Judged(unfit_at=unfit_at)
    assert executed(Scripted("One.", ServerUnavailable()), outbox, judge=judge) == "acknowledged"
    _, failed = outbox.messages
    assert isinstance(failed, WorkFailed)
    assert (failed.fault, failed.retryable, failed.step) == (Fault.WORKER, True, COMMAND.first_step + 1)
    assert outbox.returned == []


@pytest.mark.parametrize(("silence", "fault"), [(None, Fault.PASSING), (True, Fault.PASSING), (False, None)])
def test_a_time_out_is_the_workers_fault_if_it_is_unfit(silence: bool | None, fault: Fault | None) -> None:
    outbox = Outbox()
    executed(Scripted(StepTimeout()), outbox, judge=Judged(silence=silence))
    assert [message.fault for message in outbox.messages if isinstance(message, WorkFailed)] == (
        [fault] if fault else []
    )
    assert len(outbox.returned) == (fault is None)


def test_a_command_that_the_watchdog_interrupts_returns() -> None:
    running, outbox = RunningWork(), Outbox()
    interrupt: Callable[[], None] = partial(running.interrupt_all, EngineStalled())
    assert executed(Scripted(interrupt, "One."), outbox, running=running, judge=Judged(unfit_at=1)) == "acknowledged"
    assert len(outbox.returned) == 1
    assert [type(message) for message in outbox.messages] == [WorkCancelled], "what it used is reported"


# --- expiry -----------------------------------------------------------------------------------------------------------


def before(ago_s: float) -> datetime:
    return SYSTEM_CLOCK.now() - timedelta(seconds=ago_s)


@pytest.mark.parametrize(
    ("unfit_ago_s", "is_carried_out"),
    [
        ([], False),
        ([(1000, 800)], False),
        ([(1000, 30)], True),
        ([(1000, 70)], False),
        ([(65, 30)], True),
        ([(55, 30)], False),
        ([(1000, 100), (50, 30)], True),
        ([(1000, 110), (45, 30)], False),
        (None, True),
    ],
)
def test_a_command_that_waited_for_the_worker_is_carried_out_unless_it_had_expired_before(
    unfit_ago_s: list[tuple[float, float]] | None, is_carried_out: bool
) -> None:
    """The command is 120 s old and was valid for 60 s; until the time is known, any is carried out."""
    outbox, now = Outbox(), SYSTEM_CLOCK.now()
    spans = unfit_ago_s and [
        (now - timedelta(seconds=since), now - timedelta(seconds=until)) for since, until in unfit_ago_s
    ]
    assert executed(Scripted("One."), outbox, unfit_spans=spans, issued_ago_s=120) == "acknowledged"
    assert bool(outbox.messages) is is_carried_out


# --- limits -----------------------------------------------------------------------------------------------------------
