"""A worker judges its engine by probes: when it becomes unfit, when it is fit again, and who shares a probe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.clock import ServiceClock
from shared.domain.drafts import UnfinishedWork
from shared.domain.roles import WorkerRole
from shared.engines.openai.errors import AccessDenied, ServerUnavailable
from shared.engines.port import EngineDead, StepTimeout
from shared.messages import GenerateSteps
from shared.worker.fitness import EVER, FAILURES, PROBING, EngineStalled, Fitness, ProbeFailed
from shared.worker.running_work import RunningWork
from simulation.clock import START, SettableClock
from tests.unit.worker.working import golden

COMMAND = golden(GenerateSteps)
STALL_S = 60.0


class Surroundings:
    """A fitness whose time and probes the test controls."""

    def __init__(self, *, is_in_process: bool = False, failed: Exception | None = None) -> None:
        self.time = SettableClock()
        self.answers: list[Exception | Callable[[], object]] = []
        """What the next probes meet; further ones succeed."""
        self.probes = 0
        self.news: list[str | None] = []
        self.running = RunningWork(self.time.clock.monotonic)
        self.fitness: Fitness
        self.fitness = Fitness(
            self._probe,
            ServiceClock(self.time.clock),
            self.running,
            stall_s=STALL_S,
            is_in_process=is_in_process,
            on_change=lambda: self.news.append(self.code),
            failed=failed,  # type: ignore[arg-type]
        )

    @property
    def code(self) -> str | None:
        unfit = self.fitness.unfit
        return unfit and unfit.code

    def _probe(self, cancellation: Cancellation) -> None:
        self.probes += 1
        cancellation.raise_if_cancelled()
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            answer()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.time.advance(1.0)
            self.fitness.attend()


AWAY = ServerUnavailable()


def test_a_failure_does_not_make_a_worker_unfit_if_its_probe_succeeds() -> None:
    there = Surroundings()
    assert there.fitness.judge(AWAY)
    assert (there.fitness.is_fit, there.probes, there.news) == (True, 1, [])


def test_a_failed_probe_makes_it_unfit_until_one_succeeds() -> None:
    there = Surroundings()
    there.answers = [AccessDenied("The key is wrong."), AccessDenied("The key is wrong."), AWAY]
    there.time.advance(5)
    assert not there.fitness.judge(AWAY)
    unfit = there.fitness.unfit
    assert unfit is not None
    assert (unfit.code, unfit.detail) == ("access_denied", "The key is wrong.")
    assert unfit.since == START + timedelta(seconds=5)
    assert not there.fitness.judge(AWAY)
    assert there.probes == 1, "an unfit worker probes in its own time"
    there.wait(60)
    assert there.fitness.is_fit
    assert there.probes == 4
    assert there.news == ["access_denied", "engine_unavailable", None], "the same reason is no news"
    [before, (since, until)] = there.fitness.unfit_spans
    assert before == (EVER, START)
    assert since == unfit.since < until <= START + timedelta(seconds=20)


def test_an_unfit_worker_probes_with_growing_pauses() -> None:
    there = Surroundings(failed=AWAY)
    assert there.news == []
    assert there.code == "engine_unavailable"
    there.answers = [AWAY] * 1000
    there.wait(600)
    assert 600 / PROBING.limit_s <= there.probes <= 600 / (PROBING.limit_s * PROBING.jitter) + 10


def test_threads_that_ask_at_the_same_time_share_a_probe() -> None:
    there = Surroundings()
    begun, is_answered, has_asked = threading.Event(), threading.Event(), threading.Semaphore(0)

    def answer() -> None:
        begun.set()
        is_answered.wait(30)
        there.time.advance(1)

    def ask() -> bool:
        monotonic = there.fitness._clock.monotonic()
        there.fitness._clock.monotonic = lambda: has_asked.release() or monotonic  # type: ignore[method-assign,func-returns-value]
        return there.fitness.judge(AWAY)

    there.answers = [answer]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(there.fitness.judge, AWAY)
        assert begun.wait(30)
        others = [threads.submit(ask) for _ in range(3)]
        for _ in others:
            assert has_asked.acquire(timeout=30)
        del there.fitness._clock.monotonic
        is_answered.set()
        assert all(each.result(30) for each in [first, *others])
    assert there.probes == 1


def test_many_failures_in_a_row_make_it_unfit_although_its_probes_succeed() -> None:
    there = Surroundings()
    for _ in range(FAILURES - 1):
        there.fitness.note_failure(AWAY)
    there.fitness.note_success()
    for _ in range(FAILURES - 1):
        there.fitness.note_failure(AWAY)
    assert there.fitness.is_fit
    there.fitness.note_failure(AWAY)
    assert there.code == "engine_unavailable"
    there.wait(2)
    assert there.fitness.is_fit
    there.fitness.note_failure(AWAY)
    assert not there.fitness.is_fit, "on probation one more failure is enough"
    there.wait(PROBING.limit_s)
    there.fitness.note_success()
    there.fitness.note_failure(AWAY)
    assert there.fitness.is_fit


def test_an_unexpected_error_of_a_probe_makes_it_unfit_with_a_code() -> None:
    there = Surroundings()
    there.answers = [KeyError("secret")]
    assert not there.fitness.judge(AWAY)
    assert there.fitness.unfit is not None
    assert (there.code, there.fitness.unfit.detail) == (ProbeFailed.code, str(ProbeFailed()))


def test_an_engine_that_breaks_down_over_a_probe_ends_the_process() -> None:
    there = Surroundings()
    there.answers = [EngineDead()]
    with pytest.raises(EngineDead):
        there.fitness.judge(AWAY)


def test_a_probe_ends_when_the_process_stops() -> None:
    there = Surroundings()
    there.fitness.close()
    assert not there.fitness.judge(AWAY)
    assert there.code == "engine_stopped"


# --- the watchdog -----------------------------------------------------------------------------------------------------


class Writes:
    """Work that uses tokens, or none."""

    def __init__(self) -> None:
        self.tokens = 0

    @property
    def unfinished(self) -> UnfinishedWork | None:
        return UnfinishedWork(role=WorkerRole.SMALL, tokens=self.tokens, opens_call=True) if self.tokens else None


def stalled(there: Surroundings, seconds: float, *, writes: Writes | None = None) -> Cancellation:
    """Have a command run for some seconds without a finished step."""
    with there.running.track(COMMAND) as cancellation:
        there.running.watch(cancellation, writes or Writes())
        for _ in range(round(seconds)):
            if writes is not None:
                writes.tokens += 1
            there.wait(1)
    return cancellation


def test_an_engine_that_makes_no_progress_is_probed_and_its_commands_return_if_that_fails() -> None:
    there = Surroundings()
    assert not stalled(there, STALL_S + 1).is_cancelled
    assert (there.probes, there.fitness.is_fit) == (1, True)
    there.answers = [StepTimeout()]
    cancellation = stalled(there, STALL_S)
    assert cancellation.is_cancelled
    assert isinstance(cancellation.reason, EngineStalled)
    assert there.code == "engine_stalled"


def test_tokens_and_idleness_are_no_stall() -> None:
    there = Surroundings()
    stalled(there, 3 * STALL_S, writes=Writes())
    there.wait(3 * STALL_S)
    stalled(there, STALL_S - 1)
    assert there.probes == 0


def test_an_engine_in_the_process_that_answers_no_probe_is_dead() -> None:
    there = Surroundings(is_in_process=True)
    there.answers = [StepTimeout()]
    with pytest.raises(EngineDead):
        stalled(there, STALL_S + 1)


def test_a_probe_that_takes_long_while_others_write_counts_as_answered() -> None:
    there = Surroundings()

    def wait_in_vain() -> Any:
        there.time.advance(20)
        there.running.note_progress()
        raise StepTimeout

    there.answers = [wait_in_vain]
    assert there.fitness.judge(AWAY)


def test_a_time_out_shows_nothing_while_others_write() -> None:
    there = Surroundings()
    there.time.advance(30)
    there.running.note_progress()
    there.time.advance(9)
    assert there.fitness.judge_silence(StepTimeout(), 10) is None
    assert there.probes == 0
    there.time.advance(1)
    assert there.fitness.judge_silence(StepTimeout(), 10) is True
    assert there.probes == 1
