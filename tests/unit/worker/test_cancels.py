"""Which work a broadcast cancel ends, and for how long it does so."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from shared.messages import GenerateSteps
from shared.worker import running_work
from shared.worker.running_work import RunningWork
from simulation.clock import SettableClock
from tests.unit.worker.working import golden

COMMAND = golden(GenerateSteps)


class Hearing:
    """A process that hears cancels."""

    def __init__(self) -> None:
        self.clock = SettableClock()
        self.running = RunningWork(self.clock.clock.monotonic, lambda: self.clock.now - self.steps_back)
        self.steps_back = timedelta()
        """How far the clock of the service has stepped back."""

    def cancel(self, *, before_epoch: int = COMMAND.epoch + 1, problem_id: UUID = COMMAND.problem_id) -> None:
        self.running.cancel(problem_id, before_epoch=before_epoch)

    def drops(self, *, issued_ago_s: float) -> bool:
        """Tell whether a command of the cancelled epoch is dropped."""
        now = self.clock.now - self.steps_back
        command = COMMAND.model_copy(update={"issued_at": now - timedelta(seconds=issued_ago_s)})
        with self.running.track(command) as cancellation:
            return cancellation.is_cancelled


def test_a_cancel_ends_what_runs_and_is_forgotten_with_it() -> None:
    hearing = Hearing()
    with hearing.running.track(COMMAND) as cancellation:
        hearing.cancel(before_epoch=COMMAND.epoch)
        assert (cancellation.is_cancelled, hearing.running.count) == (False, 1)
        hearing.cancel()
        assert cancellation.is_cancelled
    assert hearing.running.count == 0


def test_a_command_of_a_cancelled_epoch_is_carried_out_if_it_was_issued_later() -> None:
    """A database that was restored to an earlier time returns problems to an earlier epoch."""
    hearing = Hearing()
    hearing.cancel()
    hearing.clock.advance(10)
    assert hearing.drops(issued_ago_s=11)
    assert not hearing.drops(issued_ago_s=9)


@pytest.mark.parametrize("stepped_back_s", [0, 5, 3600])
def test_a_clock_that_steps_back_after_a_failover_does_not_prolong_a_cancel(stepped_back_s: float) -> None:
    hearing = Hearing()
    hearing.cancel(before_epoch=10**9)
    hearing.clock.advance(10)
    hearing.steps_back = timedelta(seconds=stepped_back_s)
    assert hearing.drops(issued_ago_s=11)
    assert not hearing.drops(issued_ago_s=9), "the next request of the problem wins"


def test_cancels_are_forgotten_in_time_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_work, "REMEMBERED", 3)
    hearing, others = Hearing(), [UUID(int=number) for number in range(3)]
    hearing.cancel()
    for each in others[:2]:
        hearing.cancel(problem_id=each)
    assert hearing.drops(issued_ago_s=1)
    hearing.cancel(problem_id=others[2])
    assert not hearing.drops(issued_ago_s=1)
    hearing.cancel()
    hearing.clock.advance(running_work.REMEMBERED_S + 1)
    hearing.cancel(problem_id=others[0])
    assert not hearing.drops(issued_ago_s=2 * running_work.REMEMBERED_S)
