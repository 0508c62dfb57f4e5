"""Whether a worker's engine can work. A worker judges that over time, by probes, and not by one failure.

A call that fails through the fault of the worker or its server does not settle the matter: the server may have refused
just this call, or have been restarted meanwhile. So the worker probes: it makes a short call. If the probe fails, the
worker is unfit: it takes no commands, and probes with growing pauses until a probe succeeds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from shared.backoff import Backoff
from shared.cancellation import Cancellation, Cancelled
from shared.clock import ServiceClock
from shared.domain.fitness import Unfit
from shared.engines.port import EngineDead, EngineStopped, EngineUnfit, StepTimeout
from shared.errors import TrimError, explain
from shared.log import get_logger
from shared.worker.running_work import RunningWork

PROBE_TIMEOUT_S: Final = 20.0
"""Seconds that a probe may take. One that takes longer counts as answered if other calls make progress meanwhile."""

PROBING: Final = Backoff(first_s=0.5, limit_s=15.0)
"""Pauses between the probes of an unfit worker."""

FAILURES: Final = 10
"""Commands in a row that fail through the worker's fault, although its probes succeed, which make it unfit."""

MAX_DETAIL: Final = 1000
"""Characters of the sentence in a heartbeat: it may quote a server's reason."""

REMEMBERED: Final = 100
"""Number of spans without commands that a worker remembers."""

EVER: Final = datetime.min.replace(tzinfo=UTC)
"""A time before all others."""

_log = get_logger(__name__)


class EngineStalled(EngineUnfit):
    """The engine makes no progress; check the model's server, and the worker's log."""

    code = "engine_stalled"


class ProbeFailed(EngineUnfit):
    """The engine failed a probe with an unexpected error; the worker's log has the stack trace."""

    code = "probe_failed"


class Judge(Protocol):
    """Judges whether a worker is fit."""

    @property
    def is_fit(self) -> bool:
        """Whether the worker takes commands."""

    def judge(self, error: TrimError) -> bool:
        """Find out whether the worker is fit although a call failed."""

    def judge_silence(self, error: TrimError, since_s: float) -> bool | None:
        """Do the same for a call that timed out; `None` if other calls made progress in these seconds."""

    def note_success(self) -> None:
        """Note that a command succeeded."""

    def note_failure(self, error: TrimError) -> None:
        """Note that a command failed through the worker's fault although the worker is fit."""


class AlwaysFit:
    """Judges every worker fit: for engines that are called without a worker process."""

    is_fit = True

    def judge(self, _error: TrimError) -> bool:
        """Return that it is fit."""
        return True

    def judge_silence(self, _error: TrimError, _since_s: float) -> bool | None:
        """Return that the time-out shows nothing about the engine."""
        return None

    def note_success(self) -> None:
        """Do nothing."""

    def note_failure(self, error: TrimError) -> None:
        """Do nothing."""


class Fitness:
    """Judges the engine of one worker process. Safe to use from many threads."""

    def __init__(  # long: what it watches, and whom it tells
        self,
        probe: Callable[[Cancellation], object],
        clock: ServiceClock,
        running: RunningWork,
        *,
        stall_s: float,
        is_in_process: bool,
        on_change: Callable[[], object],
        failed: TrimError | None = None,
    ) -> None:
        """Begin fit, or unfit because of an error at the start.

        Args:
            probe: Makes a short call of the engine, which takes at most `PROBE_TIMEOUT_S`.
            clock: The clock of the service.
            running: The commands that run, whose progress shows that the engine works.
            stall_s: Seconds without progress while commands run after which the engine is probed.
            is_in_process: Whether the engine runs in this process, which then ends if the engine stalls.
            on_change: Is called, by any thread, whenever the worker has become fit or unfit.
            failed: Why the engine failed its first call, if it did.
        """
        self._probe = probe
        self._closing = Cancellation()
        self._clock = clock
        self._running = running
        self._stall_s = stall_s
        self._is_in_process = is_in_process
        self._on_change = on_change
        self._probing = threading.RLock()
        """Held to probe, and to change what follows."""
        self._answered_at = clock.monotonic()
        self._spans = deque[tuple[float | None, float]]([(None, clock.monotonic())], maxlen=REMEMBERED)
        """From when to when it took no commands, on the monotonic clock; `None` is before it started."""
        self._failures = 0
        self._pauses = 0
        self._next_probe_at = 0.0
        self._unfit: tuple[TrimError, float] | None = None
        """What is wrong, and since when on the monotonic clock; a later probe may fail for another reason."""
        if failed is not None:
            self._fail(failed)

    @property
    def is_fit(self) -> bool:
        """Whether the worker takes commands."""
        return self._unfit is None

    @property
    def unfit(self) -> Unfit | None:
        """Why the worker takes no commands; `None` if it does."""
        if (unfit := self._unfit) is None:
            return None
        error, since = unfit
        return Unfit(code=error.code, detail=str(error)[:MAX_DETAIL], since=self._clock.at(since))

    @property
    def unfit_spans(self) -> list[tuple[datetime, datetime]]:
        """From when to when the worker took no commands, oldest first; the time before it started belongs to them."""
        return [
            (EVER if since is None else self._clock.at(since), self._clock.at(until)) for since, until in self._spans
        ]

    def judge(self, error: TrimError) -> bool:
        """Find out by a probe whether the worker is fit although a call failed; threads that ask share a probe.

        Raises:
            EngineDead: The engine broke down.
        """
        asked_at = self._clock.monotonic()
        with self._probing:
            if self._unfit is None and self._answered_at <= asked_at and (failure := self._failure_of_probe()):
                _log.warning("engine_failed_probe", code=failure.code, cause=error.code)
                self._become_unfit(failure)
            return self._unfit is None

    def judge_silence(self, error: TrimError, since_s: float) -> bool | None:
        """Probe if no call made progress for some seconds; return `None` otherwise.

        Raises:
            EngineDead: The engine runs in this process and does not answer the probe either, or broke down.
        """
        if self._clock.monotonic() - self._running.progressed_at < since_s:
            return None
        with self._probing:
            was_fit, is_fit = self._unfit is None, self.judge(error)
            if was_fit and not is_fit and self._is_in_process and isinstance(self._reason, EngineStalled):
                raise EngineDead
        return is_fit

    def note_success(self) -> None:
        """Note that a command succeeded: the engine does real work."""
        self._failures = self._pauses = 0

    def note_failure(self, error: TrimError) -> None:
        """Note that a command failed through the worker's fault although probes succeed; many in a row make it unfit.

        It stays on probation after that: until a command succeeds, one more failure makes it unfit again, for longer.
        """
        with self._probing:
            self._failures += 1
            if self._failures >= FAILURES and self._unfit is None:
                self._become_unfit(error)

    def attend(self) -> None:
        """Probe if the worker is unfit and it is time, or if its engine has stalled; call it about once a second.

        Raises:
            EngineDead: The engine broke down, or runs in this process and has stalled.
        """
        self._running.look()
        if self._unfit is not None:
            self._probe_again()
        elif self._running.count and self._clock.monotonic() - self._running.progressed_at >= self._stall_s:
            stalled = EngineStalled(
                f"The engine has made no progress for {self._stall_s:g} s while commands were running; check the"
                " model's server."
            )
            if self.judge_silence(stalled, self._stall_s):
                self._running.note_progress()
            elif self._unfit is not None:
                self._running.interrupt_all(stalled)

    def close(self) -> None:
        """End a probe that runs, and all later ones, because the process stops."""
        self._closing.cancel()

    def _probe_again(self) -> None:
        with self._probing:
            if self._unfit is None or self._clock.monotonic() < self._next_probe_at:
                return
            if (failure := self._failure_of_probe()) is not None:
                self._become_unfit(failure)
                return
            _, since = self._unfit
            until = self._clock.monotonic()
            self._spans.append((since, until))
            self._unfit = None
        _log.info("worker_fit", after_s=round(until - since, 1))
        self._on_change()

    @property
    def _reason(self) -> TrimError | None:
        return None if self._unfit is None else self._unfit[0]

    def _become_unfit(self, error: TrimError) -> None:
        """Be unfit, or stay so for another reason."""
        if self._fail(error):
            self._on_change()

    def _fail(self, error: TrimError) -> bool:
        """Record what is wrong, and when to probe again; return whether that is news."""
        now = self._clock.monotonic()
        code, since = (None, now) if self._unfit is None else (self._unfit[0].code, self._unfit[1])
        self._unfit = error, since
        pause_s = PROBING.delay_s(self._pauses)
        self._pauses += 1
        self._next_probe_at = now + pause_s
        if code != error.code:
            _log.warning("worker_unfit", code=error.code, detail=explain(error), probe_in_s=round(pause_s, 2))
        return code != error.code

    def _failure_of_probe(self) -> TrimError | None:
        """Probe; return why it failed, if it did.

        Raises:
            EngineDead: The engine broke down.
        """
        began = self._clock.monotonic()
        failure: TrimError | None = None
        try:
            self._probe(self._closing)
        except EngineDead:
            raise
        except Cancelled:
            failure = EngineStopped()
        except StepTimeout:
            self._running.look()
            if self._running.progressed_at <= began:
                failure = EngineStalled(
                    f"The engine did not answer a probe within {PROBE_TIMEOUT_S:g} s; check the model's server, and the"
                    " worker's log."
                )
        except TrimError as error:
            failure = error
        except Exception:  # noqa: BLE001 - whatever it is, commands would meet it, too
            _log.exception("probe_crashed")
            failure = ProbeFailed()
        if failure is None:
            self._answered_at = self._clock.monotonic()
        return failure
