"""Carrying out one command: drop it if it is late, do its work, and report how that ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from shared.cancellation import Cancellation, Cancelled
from shared.clock import Clock
from shared.domain.drafts import UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.engines.port import EngineDead
from shared.errors import RetryableError, TrimError, explain
from shared.log import get_logger
from shared.messages import Command, GenerateSteps, ScoreSteps, WorkCancelled, WorkFailed, derive_id
from shared.observe import metrics, spans
from shared.observe.tracing import TRACING
from shared.worker.results import Publisher, Results, Settle
from shared.worker.running_work import RunningWork

_log = get_logger(__name__)


class ScoresTooLate(RetryableError):
    """The PRM did not score the steps in time; run more PRM workers, or submit with a longer step_timeout_s."""

    code = "scores_too_late"


class WorkerFailed(RetryableError):
    """A worker failed unexpectedly; its log has the stack trace."""

    code = "internal"


class Work(Protocol):
    """The work of one command on an engine."""

    def run(self) -> Iterator[None]:
        """Do the work and publish its results; yields after each finished step, so that a simulation can interleave."""

    @property
    def finished_steps(self) -> int:
        """Number of steps whose drafts or scores were published."""

    @property
    def unfinished(self) -> UnfinishedWork | None:
        """What the engine used past the last finished step; `None` if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the work of one command needs besides its engine."""

    worker: str
    """Name of the process, for the record."""
    clock: Clock
    cancellation: Cancellation
    results: Results


Begin = Callable[[Any, Context], Work]
"""Begins the work of a command of the worker's role."""


Outcome = Literal["done", "failed_retryable", "failed_permanent", "expired", "cancelled", "requeued", "crashed"]
"""How a command ended; `crashed` is an unexpected error of the worker."""


class Execution:
    """One command in one worker."""

    def __init__(
        self,
        command: Command,
        context: Context,
        *,
        role: WorkerRole,
        begin: Begin,
        must_requeue: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare.

        Args:
            command: The command.
            context: Its surroundings.
            role: The worker's role.
            begin: Begins the work.
            must_requeue: Tells whether a cancelled command goes back to its queue, because the process stops.
        """
        self._command = command
        self._context = context
        self._role = role
        self._begin = begin
        self._must_requeue = must_requeue

    def run(self) -> Generator[None, None, Outcome]:
        """Carry out the command; yields after each finished step, and returns how it ended.

        Raises:
            Cancelled: The process stops; another worker must carry out the command.
            EngineDead: The engine broke down; so must another worker.
        """
        if self._context.clock.now() > self._command.expires_at:
            self._report_dropped(None)
            return "expired"
        work = self._begin(self._command, self._context)
        try:
            yield from work.run()
        except Cancelled:
            if self._must_requeue():
                raise
            self._report_dropped(work)
            return "cancelled"
        except EngineDead:
            raise
        except Exception as error:  # noqa: BLE001 - the orchestrator must learn of any failure
            return self._report_failure(error, work)
        finally:
            self._count_unfinished(work)
        # A stretch that ends at a limit may leave steps that the engine had begun ahead.
        self._report_unfinished(work)
        return "done"

    def _report_dropped(self, work: Work | None) -> None:
        """Report a command that expired or was cancelled, where others depend on it or it has used tokens."""
        _log.debug("command_dropped")
        if isinstance(self._command, ScoreSteps):
            # Nobody else reports what its drafts cost.
            self._publish_failure(ScoresTooLate(), work)
        elif work is not None:
            self._report_unfinished(work)

    def _report_unfinished(self, work: Work) -> None:
        """Report what the engine used past the last finished step, if anything."""
        command, unfinished = self._command, work.unfinished
        if unfinished is not None:
            cancelled = WorkCancelled(
                id=derive_id(command.id, "cancelled"),
                problem_id=command.problem_id,
                epoch=command.epoch,
                worker=self._context.worker,
                unfinished=unfinished,
            )
            self._context.results.publish(cancelled)

    def _report_failure(self, error: Exception, work: Work) -> Outcome:
        """Report a failed command; an unexpected failure counts as retryable."""
        if not isinstance(error, TrimError):
            _log.error("command_crashed", exc_info=error)
            self._publish_failure(WorkerFailed(f"The {self._role} worker failed ({type(error).__name__})."), work)
            return "crashed"
        _log.warning("command_failed", code=error.code, detail=explain(error), retryable=error.retryable)
        self._publish_failure(error, work)
        return "failed_retryable" if error.retryable else "failed_permanent"

    def _count_unfinished(self, work: Work) -> None:
        """Count what the engine used past the last finished step, also if another worker does the command again."""
        if (unfinished := work.unfinished) is not None:
            output = "scored" if self._role is WorkerRole.PRM else "decoded"
            metrics.ENGINE_TOKENS.labels(self._role, output).inc(unfinished.tokens)
            metrics.ENGINE_TOKENS.labels(self._role, "prompt").inc(unfinished.input_tokens)

    def _publish_failure(self, error: TrimError, work: Work | None) -> None:
        command = self._command
        failed = WorkFailed(
            id=derive_id(command.id, "failed"),
            problem_id=command.problem_id,
            epoch=command.epoch,
            role=self._role,
            step=command.first_step + (work.finished_steps if work and isinstance(command, GenerateSteps) else 0),
            request_number=command.request_number,
            code=error.code,
            detail=str(error),
            retryable=error.retryable,
            worker=self._context.worker,
            drafts=command.drafts if isinstance(command, ScoreSteps) else (),
            unfinished=work.unfinished if work else None,
        )
        self._context.results.publish(failed)


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
    must_requeue: Callable[[], bool] = lambda: False
    """Tells whether a cancelled command goes back to its queue, because the process stops."""

    def carry_out(self, command: Command, *, publisher: Publisher, settle: Settle) -> Iterator[None]:
        """Carry out a command and settle it once its results are confirmed; yields after each finished step.

        Raises:
            EngineDead: The engine broke down; the command was requeued.
        """
        results = Results(publisher)
        with self.running.track(command) as cancellation:
            context = Context(worker=self.worker, clock=self.clock, cancellation=cancellation, results=results)
            execution = Execution(command, context, role=self.role, begin=self.begin, must_requeue=self.must_requeue)
            outcome: Outcome = "requeued"
            taken_at = self.clock.now()
            try:
                outcome = yield from execution.run()
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
                self._trace(command, outcome, taken_at=taken_at)
        results.when_confirmed(settle)

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
