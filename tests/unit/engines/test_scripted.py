"""What the scripted engine meters when its delays are cut short."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.domain.roles import Author
from shared.engines.port import EngineStopped, Meter, ScoringRequest, StepTimeout
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from tests.unit.engines.bundled import QUESTION, make_request

TEN_WORDS = "one two three four five six seven eight nine ten"
"""Eleven tokens with the separator."""

STEPS = [{"small": f"{TEN_WORDS}{index}", "small_ms": 100, "prm_ms": 100} for index in range(30)]


def script(*steps: object) -> Script:
    return Script.model_validate({"default": steps or STEPS})


def request_of(*steps: str, timeout_s: float = 60) -> ScoringRequest:
    return ScoringRequest(
        problem_id=make_request().problem_id, question=QUESTION, steps=steps, newest=len(steps), timeout_s=timeout_s
    )


def cut_short(call: Callable[[Cancellation], object], end: Callable[[Cancellation], object], after_s: float) -> float:
    """Run a call in a thread and end it some time later; return the seconds that it had at most."""
    cancellation, begun = Cancellation(), time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call, cancellation)
        threading.Event().wait(after_s)
        end(cancellation)
        with pytest.raises((Cancelled, EngineStopped)):
            running.result()
    return time.monotonic() - begun


def test_a_step_that_times_out_is_metered_by_the_share_of_its_delay() -> None:
    meter = Meter()
    slow = ScriptedGenerator(script({"small": TEN_WORDS, "small_ms": 11 * 60_000}), Author.SMALL)
    with pytest.raises(StepTimeout):
        list(slow.stream(make_request(step_timeout_s=0.001), Cancellation(), meter))
    assert (meter.tokens, meter.prompt_tokens) == (0, len(QUESTION.split()))
    fast = ScriptedGenerator(script(*STEPS), Author.SMALL)
    with pytest.raises(StepTimeout):
        list(fast.stream(make_request(step_timeout_s=0.06), Cancellation(), meter := Meter()))
    assert 6 <= meter.tokens <= 11
    assert not meter.estimated_tokens


@pytest.mark.parametrize("closes", [False, True])
def test_a_step_that_is_cut_short_is_metered_by_the_share_of_its_delay(closes: bool) -> None:
    engine, meter = ScriptedGenerator(script(*STEPS), Author.SMALL), Meter()
    steps = []

    def write(cancellation: Cancellation) -> None:
        steps.extend(engine.stream(make_request(), cancellation, meter))

    def end(cancellation: Cancellation) -> None:
        if closes:
            engine.close()
        else:
            cancellation.cancel()

    elapsed_s = cut_short(write, end, 0.5)
    decoded = sum(step.tokens for step in steps) + meter.tokens
    assert 0 < decoded <= 11 * elapsed_s / 0.1


def test_a_call_that_was_cancelled_before_it_began_used_nothing() -> None:
    engine, meter, cancellation = ScriptedGenerator(script(*STEPS), Author.SMALL), Meter(), Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        list(engine.stream(make_request(), cancellation, meter))
    assert meter == Meter()


def test_a_step_that_takes_no_time_is_all_or_nothing() -> None:
    engine, meter = ScriptedGenerator(script({"small": TEN_WORDS}, {"small": TEN_WORDS}), Author.SMALL), Meter()
    cancellation = Cancellation()
    stream = engine.stream(make_request(), cancellation, meter)
    assert next(stream).tokens == 11
    cancellation.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    assert meter == Meter()


def test_a_scoring_that_is_cut_short_meters_the_steps_that_it_has_scored() -> None:
    engine, meter = ScriptedScorer(script(*STEPS)), Meter()

    def score(cancellation: Cancellation) -> None:
        engine.score(request_of(*[TEN_WORDS] * 30), cancellation, meter)

    elapsed_s = cut_short(score, Cancellation.cancel, 0.5)
    assert 11 <= meter.tokens <= 11 * elapsed_s / 0.1


def test_log_probabilities_are_those_of_the_script_if_the_request_asks() -> None:
    engine = ScriptedGenerator(
        script({"small": "one", "mean_logprob": -0.5, "min_logprob": -2.0}, {"small": "two"}), Author.SMALL
    )

    def confidences(*, asks: bool) -> list[tuple[float | None, float | None]]:
        steps = engine.stream(make_request(reports_confidence=asks), Cancellation(), Meter())
        return [(step.mean_logprob, step.min_logprob) for step in steps]

    assert confidences(asks=True) == [(-0.5, -2.0), (None, None)]
    assert confidences(asks=False) == [(None, None)] * 2


def test_a_finished_scoring_leaves_the_meter_at_zero() -> None:
    meter = Meter()
    assert ScriptedScorer(script({"small": TEN_WORDS})).score(request_of(TEN_WORDS), Cancellation(), meter).tokens == 11
    assert meter == Meter()
