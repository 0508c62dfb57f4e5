"""Carries out the commands of one worker process, and settles each once its results are confirmed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from shared.bus.topology import Past, ReturnedCommand
from shared.cancellation import Cancellation, Cancelled
from shared.clock import Clock
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead
from shared.log import get_logger
from shared.messages import Command, PrefixMissing, ScoreSteps, derive_id, derive_work_id
from shared.observe import metrics, spans
from shared.observe.tracing import TRACING
from shared.worker.execution import Begin, Context, Execution, Outcome, Work
from shared.worker.fitness import AlwaysFit, Judge
from shared.worker.known_prefixes import KnownPrefixes
from shared.worker.results import Publisher, Results, Settle
from shared.worker.running_work import RunningWork
from shared.worker.taken_commands import TakenCommands

_NEW: Final = Past()

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Carries out the commands of one worker process."""

    role: WorkerRole
    worker: str
    """Name of the process, for the record."""
    clock: Clock
    begin: Begin
    running: RunningWork
    """Where a broadcast cancel finds the work."""
    taken: TakenCommands = field(default_factory=TakenCommands)
    """What the process runs or has done, and does not carry out again."""
    prefixes: KnownPrefixes = field(default_factory=KnownPrefixes)
    """The prefixes that the process knows."""
    must_requeue: Callable[[], bool] = lambda: False
    """Tells whether a cancelled command is requeued, because the engine broke down."""
    must_return: Callable[[], bool] = lambda: False
    """Tells whether a command returns to its queue, because the process stops."""
    judge: Judge = field(default_factory=AlwaysFit)
    unfit_spans: Callable[[], Iterable[tuple[datetime, datetime]] | None] = lambda: ()
    """Returns from when to when the worker took no commands, oldest first; `None` if it does not know the time."""

    def carry_out(
        self, command: Command, body: bytes, *, publisher: Publisher, settle: Settle, past: Past = _NEW
    ) -> Iterator[None]:
        """Carry out a command and settle it once its results are confirmed; yields after each finished step.

        A command that runs here, or has been done here, is not begun again: this delivery is settled with the others.

        Args:
            command: The command.
            body: Its bytes, which a worker that becomes unfit publishes again.
            publisher: Publishes the results.
            settle: Settles the delivery.
            past: What happened to the command before.

        Raises:
            EngineDead: The engine broke down; the command was requeued.
        """
        if (settle_all := self.taken.begin(command, settle)) is not None:
            yield from self._carry_out(command, body, publisher=publisher, settle=settle_all, past=past)

    def _carry_out(
        self, command: Command, body: bytes, *, publisher: Publisher, settle: Settle, past: Past
    ) -> Iterator[None]:
        results = Results(publisher)
        with self.running.track(command) as cancellation:
            context = self._context(command, cancellation, results, past)
            outcome: Outcome = "requeued"
            taken_at = self.clock.now()
            try:
                outcome = yield from self._noting_progress(self._prepare(command, context).run())
            except Cancelled:
                settle(requeue=True)
                return
            except EngineDead:
                settle(requeue=True)
                raise
            except Exception:
                settle(requeue=True)  # Even the report failed; the broker's delivery limit bounds the attempts.
                raise
            finally:
                metrics.COMMANDS.labels(self.role, outcome).inc()
                if outcome != "incomplete":
                    self._trace(command, outcome, taken_at=taken_at)
        if outcome == "incomplete":
            settle = self.taken.leave(command)  # The whole command has the same id, and may come here.
            results.publish(self._missing(command, context, past))
        if outcome == "returned":
            # Published again and acknowledged, because a command that is requeued often counts as one that crashes
            # workers. It may be delivered here again before it is settled.
            settle = self.taken.leave(command)
            results.publish(ReturnedCommand(self.role, body, replace(past, runs=past.runs + 1)))
        results.when_confirmed(settle)

    def drops(self, command: Command) -> bool:
        """Tell whether a command would not reach the engine now, because it has expired or was cancelled."""
        return self._has_expired(command) or self.running.was_cancelled(command)

    def convict(self, command: Command, past: Past, *, publisher: Publisher, settle: Settle) -> None:
        """Report that a command ends every worker that carries it out, in place of carrying it out."""
        if (settle_all := self.taken.begin(command, settle)) is None:
            return
        _log.error("command_convicted", losses=past.losses)
        results = Results(publisher)
        context = self._context(command, Cancellation(), results, past)
        Execution(command, context, role=self.role, begin=self.begin).convict()
        metrics.COMMANDS.labels(self.role, "failed_permanent").inc()
        results.when_confirmed(settle_all)

    def report_buried(self, command: Command, reason: str, *, publisher: Publisher) -> None:
        """Report that a command became a dead letter, so that its step is requested again before it is overdue."""
        context = self._context(command, Cancellation(), Results(publisher), _NEW)
        role = WorkerRole.PRM if isinstance(command, ScoreSteps) else WorkerRole(command.author)
        Execution(command, context, role=role, begin=self.begin).report_buried(reason)

    def _context(self, command: Command, cancellation: Cancellation, results: Results, past: Past) -> Context:
        return Context(
            worker=self.worker,
            clock=self.clock,
            cancellation=cancellation,
            results=results,
            work_id=derive_work_id(command, worker=self.worker, runs=past.runs),
        )

    def _missing(self, command: Command, context: Context, past: Past) -> PrefixMissing:
        """Return the event that has a command published again with the steps that this worker lacks."""
        return PrefixMissing(
            id=derive_id(context.work_id, "prefix_missing"),
            problem_id=command.problem_id,
            epoch=command.epoch,
            command=command,
            known_steps=self.prefixes.count_known(command),
            runs=past.runs,
            losses=past.losses,
            alone=past.alone,
        )

    def _prepare(self, command: Command, context: Context) -> Execution:
        return Execution(
            command,
            context,
            role=self.role,
            begin=self._begin_watched,
            must_requeue=self.must_requeue,
            must_return=self.must_return,
            judge=self.judge,
            prefixes=self.prefixes,
            has_expired=self._has_expired,
        )

    def _begin_watched(self, command: Command, context: Context) -> Work:
        work = self.begin(command, context)
        self.running.watch(context.cancellation, work)
        return work

    def _noting_progress(self, steps: Generator[None, None, Outcome]) -> Generator[None, None, Outcome]:
        with closing(steps):
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                self.running.note_progress()
                yield

    def _has_expired(self, command: Command) -> bool:
        """Tell whether a command is too late.

        What waited in the queue while the worker could not serve it is valid from then on, or all of it would be
        dropped, and bought again. What had expired before the worker became unfit was requested again by then.
        """
        if self.clock.now() <= command.expires_at or (unfit := self.unfit_spans()) is None:
            return False
        expires_at, valid_for = command.expires_at, command.expires_at - command.issued_at
        for since, until in unfit:
            if since <= expires_at and command.issued_at < until:
                expires_at = until + valid_for
        return self.clock.now() > expires_at

    def _trace(self, command: Command, outcome: Outcome, *, taken_at: datetime) -> None:
        """Export the command's wait and the work on it to the problem's trace."""
        if TRACING.covers(command.problem_id):
            ended_at = self.clock.now()
            TRACING.export(
                spans.wait(command, self.role, taken_at=taken_at),
                spans.work(
                    command, self.role, worker=self.worker, outcome=outcome, taken_at=taken_at, ended_at=ended_at
                ),
            )
