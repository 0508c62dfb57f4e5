"""Carrying out one command: drop it if it is late, do its work, and report how that ended.

A command that fails through the worker's fault is tried again if a probe shows that the worker is fit. If it is unfit,
or stops, the command returns to its queue, unless some of its steps are published already.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from shared.cancellation import Cancellation, Cancelled
from shared.clock import Clock
from shared.domain.drafts import UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.domain.status import COMMAND_BURIED, CRASHES_WORKERS
from shared.engines.port import EngineDead, EngineUnfit, StepTimeout
from shared.errors import Fault, PermanentError, RetryableError, TrimError, explain
from shared.log import get_logger
from shared.messages import Command, GenerateSteps, ScoreSteps, WorkCancelled, WorkFailed, derive_id
from shared.observe import metrics
from shared.worker.fitness import MAX_DETAIL, AlwaysFit, Judge
from shared.worker.known_prefixes import KnownPrefixes
from shared.worker.results import Results

TRIES: Final = 3
"""Calls of the engine for one command that fails through the worker's fault although the worker is fit."""

_log = get_logger(__name__)


class ScoresTooLate(RetryableError):
    """The PRM did not score the steps in time; run more PRM workers, or submit with a longer step_timeout_s."""

    code = "scores_too_late"


class CrashesWorkers(PermanentError):
    """Workers died whenever they carried out this step; find the reason in their logs, or change the question."""

    code = CRASHES_WORKERS


class CommandBuried(RetryableError):
    """A worker could not use the command; see the dead letters."""

    code = COMMAND_BURIED

    @property
    def fault(self) -> Fault:
        """The worker's: the step is requested again, and no attempt is charged."""
        return Fault.WORKER


class WorkerFailed(RetryableError):
    """A worker failed unexpectedly; its log has the stack trace."""

    code = "internal"


class WorkerStopped(RetryableError):
    """The worker stopped in the middle of the steps; the rest of them is requested again."""

    code = "worker_stopped"

    @property
    def fault(self) -> Fault:
        """The worker's."""
        return Fault.WORKER


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
    work_id: UUID
    """Id from which those of the results derive (see `derive_work_id`)."""


Begin = Callable[[Any, Context], Work]
"""Begins the work of a command of the worker's role."""


Outcome = Literal[
    "done",
    "failed_retryable",
    "failed_permanent",
    "expired",
    "cancelled",
    "requeued",
    "returned",
    "incomplete",
    "crashed",
]
"""How a command ended; `incomplete` lacked steps of its prefix, `crashed` is an unexpected error of the worker."""


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
        must_return: Callable[[], bool] = lambda: False,
        judge: Judge | None = None,
        prefixes: KnownPrefixes | None = None,
        has_expired: Callable[[Command], bool] | None = None,
    ) -> None:
        """Prepare to carry out a command.

        Args:
            command: The command.
            context: Its surroundings.
            role: The worker's role.
            begin: Begins the work.
            must_requeue: Tells whether a cancelled command is requeued, because the engine broke down.
            must_return: Tells whether a command returns to its queue, because the process stops.
            judge: Judges whether the worker is fit; by default it always is.
            prefixes: The prefixes that the worker knows; by default none.
            has_expired: Tells whether the command is too late; by default by its `expires_at` alone.
        """
        self._command = command
        self._context = context
        self._role = role
        self._begin = begin
        self._must_requeue = must_requeue
        self._must_return = must_return
        self._judge = judge or AlwaysFit()
        self._prefixes = prefixes or KnownPrefixes()
        self._has_expired = has_expired or (lambda command: context.clock.now() > command.expires_at)

    def run(self) -> Generator[None, None, Outcome]:
        """Carry out the command; yields after each finished step, and returns how it ended.

        Raises:
            Cancelled, EngineDead: The engine broke down; another worker must carry out the command.
        """
        if not self._judge.is_fit or self._must_return():
            return "returned"
        if self._has_expired(self._command):
            _log.info("command_expired", expires_at=self._command.expires_at.isoformat())
            self._report_dropped(None)
            return "expired"
        if self._context.cancellation.is_obsolete and not self._must_requeue():
            self._report_dropped(None)
            return "cancelled"
        if (whole := self._prefixes.complete(self._command)) is None:
            return "incomplete"
        self._command = whole
        for tries in range(1, TRIES + 1):
            work = self._begin(self._command, self._context)
            try:
                yield from work.run()
            except Exception as error:  # noqa: BLE001 - the orchestrator must learn of any failure
                outcome = self._conclude(error, work, tries=tries)
                if outcome is not None:
                    return outcome
            else:
                # A stretch that ends at a limit may leave steps that the engine had begun ahead.
                self._report_unfinished(work, "cancelled")
                self._judge.note_success()
                return "done"
            finally:
                self._count_unfinished(work)
        raise AssertionError("the last try is concluded")

    def convict(self) -> None:
        """Report that the command ends every worker that carries it out; it is not carried out any more."""
        self._publish_failure(CrashesWorkers(), None)

    def report_buried(self, reason: str) -> None:
        """Report that the command became a dead letter; it is not carried out."""
        self._publish_failure(CommandBuried(f"A worker could not use the command: {reason}."), None)

    def _conclude(self, error: Exception, work: Work, *, tries: int) -> Outcome | None:
        """Decide what follows from a failure, and report it; return `None` to try the command again.

        Raises:
            Cancelled, EngineDead: The engine broke down; another worker must carry out the command.
        """
        if isinstance(error, Cancelled):
            reason = self._context.cancellation.reason
            if self._must_requeue():
                raise error
            if self._must_return():
                if not work.finished_steps:
                    self._report_unfinished(work, "returned")
                    return "returned"
                reason = WorkerStopped()
            if not isinstance(reason, TrimError):
                self._report_dropped(work)
                return "cancelled"
            error = reason
        if isinstance(error, EngineDead):
            raise error
        if not isinstance(error, TrimError):
            _log.error("command_crashed", exc_info=error)
            self._publish_failure(WorkerFailed(f"The {self._role} worker failed ({type(error).__name__})."), work)
            return "crashed"
        return self._conclude_failure(error, work, tries=tries)

    def _conclude_failure(self, error: TrimError, work: Work, *, tries: int) -> Outcome | None:
        """Tell failures of the call from failures of the worker."""
        fault, is_fit = error.fault, True
        if isinstance(error, EngineUnfit):
            is_fit = self._judge.judge(error)
        elif isinstance(error, StepTimeout):
            is_fit = self._judge.judge_silence(error, self._command.step_timeout_s) is not False
            fault = fault if is_fit else Fault.WORKER
        if fault is Fault.WORKER and not work.finished_steps:
            if not is_fit:
                self._report_unfinished(work, "returned")
                return "returned"
            if tries < TRIES:
                _log.info("command_tried_again", code=error.code, detail=explain(error))
                self._report_unfinished(work, "tried", tries)
                return None
            self._judge.note_failure(error)
            if isinstance(error, EngineUnfit) and not error.may_be_the_calls:
                self._report_unfinished(work, "returned")
                return "returned"
            # The worker is fit: it is this call that fails, so the failure counts as an attempt.
            fault = Fault.PASSING
        _log.warning("command_failed", code=error.code, detail=explain(error), fault=fault)
        self._publish_failure(error, work, fault=fault)
        return "failed_permanent" if fault is Fault.INPUT else "failed_retryable"

    def _report_dropped(self, work: Work | None) -> None:
        """Report a command that expired or was cancelled, where others depend on it or it has used tokens."""
        _log.debug("command_dropped")
        if isinstance(self._command, ScoreSteps):
            # Nobody else reports what its drafts cost.
            self._publish_failure(ScoresTooLate(), work)
        elif work is not None:
            self._report_unfinished(work, "cancelled")

    def _report_unfinished(self, work: Work, *what: object) -> None:
        """Report what the engine used past the last finished step, if anything."""
        command, unfinished = self._command, work.unfinished
        if unfinished is not None:
            cancelled = WorkCancelled(
                id=derive_id(self._context.work_id, *what),
                problem_id=command.problem_id,
                epoch=command.epoch,
                worker=self._context.worker,
                unfinished=unfinished,
            )
            self._context.results.publish(cancelled)

    def _count_unfinished(self, work: Work) -> None:
        """Count what the engine used past the last finished step, also if another worker does the command again."""
        if (unfinished := work.unfinished) is not None:
            output = "scored" if self._role is WorkerRole.PRM else "decoded"
            metrics.ENGINE_TOKENS.labels(self._role, output).inc(unfinished.tokens)
            metrics.ENGINE_TOKENS.labels(self._role, "prompt").inc(unfinished.input_tokens)

    def _publish_failure(self, error: TrimError, work: Work | None, *, fault: Fault | None = None) -> None:
        command = self._command
        failed = WorkFailed(
            id=derive_id(self._context.work_id, "failed"),
            problem_id=command.problem_id,
            epoch=command.epoch,
            role=self._role,
            step=command.first_step + (work.finished_steps if work and isinstance(command, GenerateSteps) else 0),
            request_number=command.request_number,
            code=error.code,
            detail=str(error)[:MAX_DETAIL],
            retryable=error.retryable,
            fault=fault or error.fault,
            worker=self._context.worker,
            drafts=command.drafts if isinstance(command, ScoreSteps) else (),
            unfinished=work.unfinished if work else None,
        )
        self._context.results.publish(failed)
