"""A command that the broker redelivers to a process that runs it, or has done it, is carried out once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest

from services.generator.writing import Writing
from shared.bus.connection import BrokerUnavailable
from shared.bus.topology import Past
from shared.clock import SYSTEM_CLOCK
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead
from shared.messages import Command, GenerateSteps
from shared.worker import taken_commands
from shared.worker.executor import Executor
from shared.worker.fitness import AlwaysFit
from shared.worker.results import Settle
from shared.worker.running_work import RunningWork
from tests.unit.worker.working import Outbox, Scripted, golden

NOW = SYSTEM_CLOCK.now()
COMMAND = golden(GenerateSteps, reports_stretch=False, issued_at=NOW, expires_at=NOW + timedelta(days=1), max_steps=1)


class Process:
    """A worker process; notes how each delivery is settled."""

    def __init__(self, *, engine: Scripted | None = None, judge: AlwaysFit | None = None) -> None:
        self.engine = engine or Scripted("One.")
        self.outbox = Outbox(confirms=False)
        self.settled: list[tuple[str, bool]] = []
        self.executor = Executor(
            role=WorkerRole.SMALL, worker="worker-1", clock=SYSTEM_CLOCK, begin=partial(Writing, engine=self.engine),
            running=RunningWork(), judge=judge or AlwaysFit(),
        )  # fmt: skip

    def settle(self, name: str) -> Settle:
        def settle(*, requeue: bool) -> None:
            self.settled.append((name, requeue))

        return settle

    def deliver(self, name: str, command: Command = COMMAND) -> Iterator[None]:
        return self.executor.carry_out(
            command, b"{}", publisher=self.outbox, settle=self.settle(name), past=Past(runs=len(name))
        )

    def carry_out(self, name: str, command: Command = COMMAND) -> None:
        for _ in self.deliver(name, command):
            pass


def test_a_command_that_is_redelivered_while_it_runs_is_settled_when_its_results_are_confirmed() -> None:
    process = Process()
    run = process.deliver("a")
    next(run)
    process.carry_out("b")
    assert process.executor.taken.join(COMMAND, process.settle("c"))
    list(run)
    process.carry_out("d")
    assert (process.engine.calls, process.settled) == (1, [])
    process.outbox.confirm()
    assert process.settled == [("a", False), ("b", False), ("c", False), ("d", False)]


def test_a_command_that_is_redelivered_after_its_results_were_confirmed_is_acknowledged_at_once() -> None:
    process = Process()
    process.outbox.confirms = True
    process.carry_out("a")
    process.carry_out("b")
    assert process.executor.taken.join(COMMAND, process.settle("c"))
    assert (process.engine.calls, process.settled) == (1, [("a", False), ("b", False), ("c", False)])


def test_a_command_whose_results_never_arrived_is_carried_out_again() -> None:
    process = Process()
    process.carry_out("a")
    process.outbox.confirm(BrokerUnavailable())
    process.outbox.confirms = True
    assert not process.executor.taken.join(COMMAND, process.settle("b"))
    process.carry_out("b")
    assert (process.engine.calls, process.settled) == (2, [("a", True), ("b", False)])


def test_a_command_that_its_worker_requeued_or_returned_is_carried_out_when_it_comes_again() -> None:
    process = Process(engine=Scripted(EngineDead()))
    with pytest.raises(EngineDead):
        process.carry_out("a")
    assert not process.executor.taken.join(COMMAND, process.settle("b"))
    judge = AlwaysFit()
    process = Process(judge=judge)
    judge.is_fit = False
    process.carry_out("a")
    judge.is_fit = True
    process.carry_out("b")
    assert process.engine.calls == 1, "although the first delivery is not settled yet"
    process.outbox.confirm()
    assert process.settled == [("a", False), ("b", False)]


def test_a_command_that_a_restored_database_issues_again_is_another_one() -> None:
    process = Process()
    process.outbox.confirms = True
    process.carry_out("a")
    process.carry_out("b", COMMAND.model_copy(update={"issued_at": NOW + timedelta(milliseconds=1)}))
    assert process.engine.calls == 2


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken_commands, "REMEMBERED", 2)
    process = Process()
    process.outbox.confirms = True
    for number in range(3):
        process.carry_out("a", COMMAND.model_copy(update={"issued_at": NOW + timedelta(seconds=number)}))
    taken = process.executor.taken
    known = [
        taken.join(COMMAND.model_copy(update={"issued_at": NOW + timedelta(seconds=number)}), process.settle("b"))
        for number in range(3)
    ]
    assert (known, taken.open_count) == ([False, True, True], 0)
