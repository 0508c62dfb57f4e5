"""Behaviour that all engines' generators share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.domain.answers import boxed_answer
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.port import GeneratedStep, InputTooLong, Meter, StepTimeout
from tests.engines.deployed import BLANK_QUESTION, SLOW_STORY, STORIES, Engine, until
from tests.unit.engines.bundled import GREEDY, MODELS, make_request, texts, write

QUESTION = STORIES[0].question


def test_it_solves_problems_and_reports_how_steps_end(engine: Engine) -> None:
    with ThreadPoolExecutor(len(STORIES)) as pool:
        solutions = list(pool.map(lambda story: write(engine.large, make_request(story.question)), STORIES))
    solved = 0
    for story, steps in zip(STORIES, solutions, strict=True):
        assert [step.finish for step in steps] == [Finish.SEPARATOR] * (len(steps) - 1) + [Finish.ENDED]
        assert all(step.tokens > 1 for step in steps)
        assert steps[0].prompt_tokens > 1
        assert all((step.prompt_tokens > 0) is (engine.name == "openai") for step in steps[1:])
        solved += boxed_answer(steps[-1].text) == str(story.answer)
    assert solved >= len(STORIES) - 1


def test_many_calls_of_one_step_write_what_one_call_of_many_steps_writes(engine: Engine) -> None:
    for story in STORIES[:3]:
        at_once = write(engine.large, make_request(story.question))
        one_by_one: list[GeneratedStep] = []
        for _ in at_once:
            one_by_one += write(engine.large, make_request(story.question, texts(one_by_one), max_steps=1))
        assert [(step.text, step.finish, step.tokens) for step in one_by_one] == [
            (step.text, step.finish, step.tokens) for step in at_once
        ]


def test_it_continues_after_a_step_that_it_would_not_write(engine: Engine) -> None:
    story = STORIES[0]
    other = "1) That is 2*2=4 pens."
    assert other not in story.steps
    (step,) = write(engine.large, make_request(story.question, [other], max_steps=1))
    assert step.text
    assert step.text not in (other, story.steps[0])


def test_a_call_ends_after_its_last_step(engine: Engine) -> None:
    assert len(write(engine.large, make_request(QUESTION, max_steps=2))) == 2


def test_a_call_begins_no_step_once_it_has_its_tokens(engine: Engine) -> None:
    assert len(write(engine.large, make_request(QUESTION, max_tokens=1))) == 1


def test_a_step_is_closed_at_its_token_limit_and_ends_the_call(engine: Engine) -> None:
    (cut,) = write(engine.large, make_request(QUESTION, max_step_tokens=5, max_steps=2))
    assert cut.finish is Finish.LENGTH
    assert cut.tokens <= 6


def test_a_model_that_writes_nothing_ends_the_call(engine: Engine) -> None:
    (step,) = write(engine.blank, make_request(BLANK_QUESTION, max_steps=5))
    assert step.text.strip("- ") == ""
    assert step.tokens >= 2


@pytest.mark.parametrize("max_steps", [1, 2])
def test_a_step_without_words_ends_at_its_token_limit(engine: Engine, max_steps: int) -> None:
    (step,) = write(engine.blank, make_request(BLANK_QUESTION, max_steps=max_steps, max_step_tokens=1))
    assert step.text.strip("- ") == ""
    assert step.tokens == 1


def test_a_cancelled_call_raises_and_others_continue(engine: Engine) -> None:
    cancellation = Cancellation()
    begun, is_requested = threading.Event(), threading.Event()

    def cancelled() -> None:
        for _ in engine.large.stream(make_request(QUESTION), cancellation, Meter()):
            begun.set()
            assert is_requested.wait(60)  # or a fast engine has written all by then

    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(cancelled)
        assert begun.wait(60)
        other = pool.submit(write, engine.large, make_request(STORIES[1].question))
        cancellation.cancel()
        is_requested.set()
        with pytest.raises(Cancelled):
            call.result()
        assert other.result()


def test_a_call_that_was_cancelled_before_raises_at_once(engine: Engine) -> None:
    cancellation, meter = Cancellation(), Meter()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        list(engine.large.stream(make_request(QUESTION), cancellation, meter))
    assert meter == Meter()


def test_a_closed_iterator_frees_the_engine_for_others(engine: Engine) -> None:
    stream = engine.large.stream(make_request(QUESTION), Cancellation(), Meter())
    first = next(stream)
    stream.close()
    assert write(engine.large, make_request(QUESTION, max_steps=1))[0].text == first.text


def test_a_step_that_takes_too_long_raises(engine: Engine) -> None:
    with pytest.raises(StepTimeout):
        write(engine.large, make_request(QUESTION, step_timeout_s=0.0001))
    assert write(engine.large, make_request(QUESTION, max_steps=1))


def test_the_same_seed_draws_the_same_steps(engine: Engine) -> None:
    def drawn(seed: int) -> list[str]:
        return texts(
            write(engine.large, make_request(QUESTION, sampling=Sampling(temperature=1.5, top_p=1, top_k=0, seed=seed)))
        )

    assert drawn(3) == drawn(3)
    if engine.is_real:
        assert len({tuple(drawn(seed)) for seed in range(6)}) > 1


def test_a_question_longer_than_the_context_is_refused(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script has no context")
    with pytest.raises(InputTooLong):
        write(engine.large, make_request("7" * 2000))


def test_a_solution_that_fills_the_context_ends_there(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script has no context")
    question = "7" * 1000
    steps = write(engine.large, make_request(question))
    assert steps[-1].finish is Finish.LENGTH
    assert steps[0].prompt_tokens + sum(step.tokens for step in steps) == 1024


def test_a_stream_whose_next_step_does_not_fit_the_context_ends_with_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.name not in ("embedded", "vllm"):
        pytest.skip("a script has no context, and a server counts its context itself")
    first, second, *_ = write(engine.large, make_request(QUESTION))
    full = first.prompt_tokens + first.tokens + second.tokens
    monkeypatch.setattr(engine.large._model, "max_tokens", full)  # type: ignore[attr-defined]
    written: list[GeneratedStep] = []
    with pytest.raises(InputTooLong, match=f"are {full} tokens long"):
        written.extend(engine.large.stream(make_request(QUESTION), Cancellation(), Meter()))
    assert texts(written) == texts([first, second])
    assert len(write(engine.large, make_request(QUESTION, max_steps=2))) == 2, "nothing is missing then"


def test_a_completed_call_leaves_the_meter_at_zero(engine: Engine) -> None:
    for max_steps in (1, 30):
        meter = Meter()
        assert list(engine.large.stream(make_request(QUESTION, max_steps=max_steps), Cancellation(), meter))
        assert meter == Meter()


class WatchedMeter(Meter):
    """Calls back once, in the engine's thread, when two tokens are metered."""

    def __init__(self, reached: Callable[[], object]) -> None:
        super().__init__()
        self._reached: Callable[[], object] | None = reached

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("tokens", "estimated_tokens") and value >= 2 and self._reached is not None:
            reached, self._reached = self._reached, None
            reached()


def test_a_call_that_is_cancelled_within_a_step_meters_what_it_decoded(engine: Engine) -> None:
    cancellation = Cancellation()
    meter = WatchedMeter(cancellation.cancel)
    (step,) = write(engine.large, make_request(SLOW_STORY.question, max_steps=1))
    if not engine.is_real:  # Only the end of its wait tells what a script has written.
        cancelling = threading.Timer(0.5, cancellation.cancel)
        cancelling.start()
    with pytest.raises(Cancelled):
        list(engine.large.stream(make_request(SLOW_STORY.question, max_steps=2), cancellation, meter))
    assert 0 < meter.tokens + meter.estimated_tokens <= step.tokens
    assert bool(meter.estimated_tokens) is (engine.name == "openai")
    assert meter.prompt_tokens == (0 if engine.name == "openai" else step.prompt_tokens)


def test_a_step_that_takes_too_long_is_metered(engine: Engine) -> None:
    timeout_s = 3.0 if engine.is_real else 1.0
    meter = WatchedMeter(lambda: time.sleep(timeout_s + 0.5))
    (step,) = write(engine.large, make_request(SLOW_STORY.question, max_steps=1))
    request = make_request(SLOW_STORY.question, max_steps=2, step_timeout_s=timeout_s)
    with pytest.raises(StepTimeout):
        list(engine.large.stream(request, Cancellation(), meter))
    assert 0 < meter.tokens + meter.estimated_tokens <= step.tokens


def test_a_closed_iterator_meters_what_was_decoded_ahead(engine: Engine) -> None:
    meter = Meter()
    steps = write(engine.large, make_request(QUESTION))
    stream = engine.large.stream(make_request(QUESTION), Cancellation(), meter)
    assert next(stream).text == steps[0].text
    if engine.name in ("embedded", "vllm"):  # The others write no step before the caller asks for it.
        until(lambda: meter.tokens)
    stream.close()
    ahead = meter.tokens
    assert 0 <= ahead <= sum(step.tokens for step in steps[1:])
    assert (ahead > 0) is (engine.name in ("embedded", "vllm"))
    assert meter == Meter(tokens=ahead), "the input belongs to the first step"


@pytest.mark.parametrize("special", ["<|im_end|>", "<|endoftext|>", "<extra_0>"])
def test_text_that_spells_a_special_token_stays_text(engine: Engine, special: str) -> None:
    if not engine.is_real:
        pytest.skip("a script has no tokens")
    (with_it,) = write(engine.large, make_request(f"{special}{QUESTION}{special}", [f"1) {special}"], max_steps=1))
    (without,) = write(engine.large, make_request(QUESTION, ["1) "], max_steps=1))
    assert with_it.text
    assert with_it.prompt_tokens - without.prompt_tokens > 3 * 3, "the special token itself would be one each time"


def confidence(step: GeneratedStep) -> tuple[float, float]:
    assert step.mean_logprob is not None
    assert step.min_logprob is not None
    return step.mean_logprob, step.min_logprob


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_p=1, top_k=0, seed=3)])
def test_a_step_has_log_probabilities_if_the_request_asks(engine: Engine, sampling: Sampling) -> None:
    request = make_request(QUESTION, sampling=sampling, max_steps=3)
    steps = write(engine.large, replace(request, reports_confidence=True))
    for mean, least in map(confidence, steps):
        assert least <= mean + 1e-9
        assert mean <= 0
    assert {(step.mean_logprob, step.min_logprob) for step in write(engine.large, request)} == {(None, None)}


def test_a_step_has_the_same_log_probabilities_in_a_call_of_many_steps_and_alone(engine: Engine) -> None:
    steps = write(engine.large, make_request(QUESTION, max_steps=3, reports_confidence=True))
    for index, step in enumerate(steps):
        request = make_request(QUESTION, texts(steps[:index]), max_steps=1, reports_confidence=True)
        (alone,) = write(engine.large, request)
        assert (alone.text, confidence(alone)) == (step.text, pytest.approx(confidence(step), abs=0.02))


def test_all_engines_report_the_log_probabilities_that_the_embedded_one_does(engine: Engine) -> None:
    if engine.name in ("scripted", "embedded"):
        pytest.skip("a script has no probabilities, and the embedded engine would be compared with itself")
    requests = [
        make_request(story.question, story.steps[:index], max_steps=1, reports_confidence=True)
        for story in STORIES[:3]
        for index in range(len(story.steps))
    ]
    with closing(EmbeddedGenerator(MODELS / "large")) as embedded, ThreadPoolExecutor(len(requests)) as pool:
        steps = pool.map(lambda request: write(engine.large, request)[0], requests)
        pairs = list(zip(steps, (write(embedded, request)[0] for request in requests), strict=True))
    for step, expected in pairs:
        assert (step.text, confidence(step)) == (expected.text, pytest.approx(confidence(expected), abs=0.02))


def test_concurrent_calls_make_progress_together(engine: Engine) -> None:
    """Every call has its first step before any has its last; run one by one, the first would have ended by then."""
    arrived: list[tuple[int, bool]] = []
    solved = threading.Barrier(8)

    def solve(index: int) -> None:
        solved.wait()
        steps = engine.large.stream(make_request(STORIES[index].question), Cancellation(), Meter())
        arrived.extend((index, step.finish is Finish.ENDED) for step in steps)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(solve, range(8)))
    before = [index for index, _ in arrived[: [is_last for _, is_last in arrived].index(True)]]
    assert set(before) == set(range(8))


def test_concurrent_calls_are_computed_together(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script computes nothing")
    before = engine.large_runs()
    with ThreadPoolExecutor(8) as pool:
        solutions = list(pool.map(lambda story: write(engine.large, make_request(story.question)), STORIES[:8]))
    tokens = sum(step.tokens for steps in solutions for step in steps)
    assert 0 < engine.large_runs() - before < tokens / 2, "a run for each token if each call were computed alone"
