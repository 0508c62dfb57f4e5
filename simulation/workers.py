"""Worker processes in memory: each carries out commands with the real `Executor`, one step at a time."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from services.generator.writing import Writing
from services.prm.scoring import ScoringWork
from shared.bus.topology import Past, ReturnedCommand, decode_from
from shared.clock import Clock
from shared.domain.roles import WorkerRole
from shared.engines.port import Generator, Scorer
from shared.messages import CancelWork, Command, GenerateSteps, Message, ScoreSteps
from shared.worker.execution import Begin
from shared.worker.executor import Executor
from shared.worker.known_prefixes import MAX_BYTES, KnownPrefixes
from shared.worker.running_work import RunningWork
from simulation.bus import Letter, MemoryBus


@dataclass(frozen=True, kw_only=True)
class Engines:
    """The engines of all workers."""

    small: Generator
    large: Generator
    prm: Scorer | None
    """`None` if no policy reads scores."""


class RunningCommand:
    """One command in a worker process, from its delivery until its results are confirmed."""

    def __init__(self, command: Command, letter: Letter, executor: Executor, bus: MemoryBus) -> None:
        past = Past(runs=letter.deliveries)
        letter.deliveries += 1
        self.command = command
        self.role = executor.role
        self.published: list[Message] = []
        self.is_over = False
        self.was_requeued = False
        self._letter = letter
        self._bus = bus
        self._unconfirmed: list[Future[None]] = []
        self._has_crashed = False
        self._taken = executor.taken
        self._steps = executor.carry_out(self.command, letter.body, publisher=self, settle=self._settle, past=past)

    def publish(self, *messages: Message | ReturnedCommand) -> Future[None]:
        """Publish results; the broker confirms them before the next step, unless that is held back.

        No command returns: these workers are always fit.
        """
        results = [message for message in messages if not isinstance(message, ReturnedCommand)]
        confirmed: Future[None] = Future()
        if not self._has_crashed:
            self._bus.publish(*results)
            self.published += results
            self._unconfirmed.append(confirmed)
        return confirmed

    def work(self, *, holds: bool = False) -> None:
        """Finish one more step, or end.

        Args:
            holds: Whether the broker leaves earlier results unconfirmed, so that the worker holds the new draft back.

        Raises:
            EngineDead: The engine broke down; the command was requeued.
        """
        if not holds:
            self._confirm()
        self.is_over = True
        try:
            next(self._steps)
            self.is_over = False
        except StopIteration:
            self._confirm()

    def finish(self) -> None:
        """Work to the end; errors as for `work`."""
        while not self.is_over:
            self.work()

    def crash(self) -> None:
        """Lose everything that is not published; the broker redelivers the command."""
        self._has_crashed = True
        self._steps.close()  # type: ignore[attr-defined]
        self._taken.leave(self.command)(requeue=True)
        if not self.was_requeued:
            self._settle(requeue=True)
        self.is_over = True

    def _settle(self, *, requeue: bool) -> None:
        self.was_requeued = requeue
        if requeue:
            self._bus.put_back(self._letter)

    def _confirm(self) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for each in unconfirmed:
            each.set_result(None)


class Workers:
    """One worker process for each role."""

    def __init__(self, engines: Engines, bus: MemoryBus, clock: Clock, *, remembered_bytes: int = MAX_BYTES) -> None:
        """Start the workers.

        Args:
            engines: Their engines.
            bus: Where they publish.
            clock: Their clock.
            remembered_bytes: Size of the prefixes that each of them remembers.
        """
        begin: dict[WorkerRole, Begin] = {
            WorkerRole.SMALL: partial(Writing, engine=engines.small),
            WorkerRole.LARGE: partial(Writing, engine=engines.large),
        }
        if engines.prm is not None:
            begin[WorkerRole.PRM] = partial(ScoringWork, engine=engines.prm)
        self._bus = bus
        self._clock = clock
        self._executors = {
            role: Executor(
                role=role,
                worker=f"{role}-1",
                clock=clock,
                begin=begin[role],
                running=RunningWork(clock.monotonic, clock.now),
                prefixes=KnownPrefixes(remembered_bytes),
            )
            for role in begin
        }

    def start(self, role: WorkerRole, letter: Letter) -> RunningCommand:
        """Hand a message to the worker whose queue delivered it.

        Raises:
            UndecodableMessage: Another queue carries it.
        """
        command = decode_from(role, letter.body)
        assert isinstance(command, GenerateSteps | ScoreSteps)
        return RunningCommand(command, letter, self._executors[role], self._bus)

    def hear(self, letter: Letter) -> None:
        """Have every process hear a broadcast cancel."""
        cancel = letter.message
        assert isinstance(cancel, CancelWork)
        for executor in self._executors.values():
            executor.running.cancel(cancel.problem_id, before_epoch=cancel.epoch)
