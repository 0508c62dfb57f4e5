"""The embedded engine's generator, on the bundled models."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from tokenizers import Tokenizer

from recipe.reference import load_weights, logits
from shared.cancellation import Cancellation, Cancelled
from shared.domain.answers import boxed_answer
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.domain.text import SEPARATOR
from shared.engines.embedded.cache import PrefixCache
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.sampling import draw, log_probabilities, uniform
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.embedded.token_bytes import token_bytes
from shared.engines.factory import make_generator
from shared.engines.port import (
    EngineDead,
    EngineStopped,
    GeneratedStep,
    InputTooLong,
    Meter,
    ModelUnusable,
    StepTimeout,
)
from shared.settings import Settings
from tests.unit.engines.bundled import (
    GREEDY,
    MODELS,
    PROBLEMS,
    QUESTION,
    WARM,
    Gate,
    folder_copy,
    make_request,
    score,
    texts,
    wait_for_calls,
    write,
)


def test_the_large_model_solves_problems(large: EmbeddedGenerator) -> None:
    with ThreadPoolExecutor(12) as pool:
        solutions = list(pool.map(lambda problem: write(large, make_request(problem["question"])), PROBLEMS[:12]))
    answers = [boxed_answer(steps[-1].text) for steps in solutions]
    assert sum(answer == problem["reference"] for answer, problem in zip(answers, PROBLEMS, strict=False)) >= 11


def test_the_model_id_names_the_weights(small: EmbeddedGenerator) -> None:
    assert small.model_id.startswith("embedded/small@")
    assert len(small.model_id.partition("@")[2]) == 8


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("max_step_tokens", [512, 7])
def test_one_call_of_many_steps_writes_what_many_calls_of_one_step_write(
    small: EmbeddedGenerator, sampling: Sampling, max_step_tokens: int
) -> None:
    for problem in PROBLEMS[:6]:
        request = make_request(problem["question"], max_steps=6, sampling=sampling, max_step_tokens=max_step_tokens)
        at_once = write(small, request)
        one_by_one: list[GeneratedStep] = []
        for _ in at_once:
            single = make_request(
                problem["question"], texts(one_by_one), max_steps=1, sampling=sampling, max_step_tokens=max_step_tokens
            )
            one_by_one += write(small, single)
        assert [(step.text, step.finish, step.tokens) for step in one_by_one] == [
            (step.text, step.finish, step.tokens) for step in at_once
        ]


def test_another_seed_writes_something_else(small: EmbeddedGenerator) -> None:
    written = {
        tuple(texts(write(small, make_request(sampling=Sampling(temperature=1.5, top_p=1, seed=seed)))))
        for seed in range(5)
    }
    assert len(written) > 1


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_a_call_writes_the_same_alone_and_among_others(small: EmbeddedGenerator, sampling: Sampling) -> None:
    questions = [problem["question"] for problem in PROBLEMS[:16]]
    alone = [texts(write(small, make_request(question, sampling=sampling))) for question in questions]
    with ThreadPoolExecutor(16) as pool:
        together = list(
            pool.map(lambda question: texts(write(small, make_request(question, sampling=sampling))), questions)
        )
    assert together == alone


def test_concurrent_calls_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddedGenerator(MODELS / "small")
    gate = Gate(engine, monkeypatch)
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(write, engine, make_request())
        gate.wait_until_reached()
        others = [pool.submit(write, engine, make_request(problem["question"])) for problem in PROBLEMS[1:16]]
        wait_for_calls(engine, 16)
        gate.open()
        solutions = [call.result() for call in (first, *others)]
    engine.close()
    lengths = [sum(step.tokens for step in steps) for steps in solutions]
    # The first call is alone for its prefill; all others join at once, and the longest sets the number of runs.
    assert engine._model.runs <= max(lengths) + 2


def test_a_batch_that_is_full_lets_calls_wait_their_turn() -> None:
    engine = EmbeddedGenerator(MODELS / "small", max_batch=2)
    with ThreadPoolExecutor(6) as pool:
        solutions = list(pool.map(lambda problem: write(engine, make_request(problem["question"])), PROBLEMS[:6]))
    engine.close()
    assert all(solutions)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1)])
def test_confidence_is_read_from_the_models_own_distribution(small: EmbeddedGenerator, sampling: Sampling) -> None:
    question = PROBLEMS[1]["question"]
    steps = write(small, make_request(question, sampling=sampling, reports_confidence=True))
    model = small._model
    ids, ends = small.question_ids(question), list[int]()
    for step in steps:
        is_last = step.finish is Finish.ENDED
        ids += [*model.encode(step.text), *model.end_ids] if is_last else model.encode(step.text + SEPARATOR)
        ends.append(len(ids))
    config = json.loads((MODELS / "small" / "config.json").read_text())
    rows = logits(config, load_weights(MODELS / "small" / "model.safetensors"), ids)
    expected = np.array([0, *log_probabilities(rows[:-1], ids[1:])])
    for step, end in zip(steps, ends, strict=True):
        own = expected[end - step.tokens : end]
        assert (step.mean_logprob, step.min_logprob) == pytest.approx((own.mean(), own.min()), abs=1e-4)


def test_only_calls_that_ask_have_log_probabilities(small: EmbeddedGenerator) -> None:
    requests = [
        make_request(problem["question"], max_steps=2, reports_confidence=index % 2 == 1)
        for index, problem in enumerate(PROBLEMS[:4])
    ]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: write(small, request), requests))
    for request, steps in zip(requests, together, strict=True):
        assert {step.mean_logprob is not None for step in steps} == {request.reports_confidence}
        for step, alone in zip(steps, write(small, request), strict=True):
            assert (alone.mean_logprob, alone.min_logprob) == pytest.approx(
                (step.mean_logprob, step.min_logprob), abs=1e-4
            )


def test_a_closed_iterator_frees_its_place_within_one_decode_step(
    lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_that_leaving_frees_the_place(lone, monkeypatch, lambda stream, cancellation: stream.close())


def test_a_cancelled_call_raises_and_frees_its_place_within_one_decode_step(
    lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(stream: Any, cancellation: Cancellation) -> None:
        cancellation.cancel()
        with pytest.raises(Cancelled):
            next(stream)

    check_that_leaving_frees_the_place(lone, monkeypatch, cancel)


def check_that_leaving_frees_the_place(
    engine: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Any, Cancellation], None]
) -> None:
    (step,) = write(engine, make_request(max_steps=1))
    runs = engine._model.runs
    gate = Gate(engine, monkeypatch)
    cancellation = Cancellation()
    stream = engine.stream(make_request(), cancellation, Meter())
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(next, stream)
        gate.wait_until_reached()
        gate.let_pass(step.tokens)
        assert begun.result() == step
        leave(stream, cancellation)
        other = pool.submit(write, engine, make_request(PROBLEMS[1]["question"], max_steps=1))
        wait_for_calls(engine, 1)
        gate.open()
        (other_step,) = other.result()
    # One run for each token, and the one that was under way when the first call left.
    assert engine._model.runs - runs == step.tokens + 1 + other_step.tokens


def test_a_call_that_waits_for_its_turn_is_cancelled_without_a_turn(
    lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(lone, monkeypatch)
    cancellation = Cancellation()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write, lone, make_request())
        gate.wait_until_reached()
        waiting = pool.submit(lambda: list(lone.stream(make_request(), cancellation, Meter())))
        wait_for_calls(lone, 2)
        cancellation.cancel()
        gate.let_pass(1)
        with pytest.raises(Cancelled):
            waiting.result()
        assert not first.done()
        gate.open()
        assert first.result()


def test_a_call_that_is_closed_meters_each_token_that_was_drawn_for_it(
    lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(lone, make_request(max_steps=2))
    gate, meter = Gate(lone, monkeypatch), Meter()
    stream = lone.stream(make_request(), Cancellation(), meter)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(next, stream)
        gate.wait_until_reached()
        assert (meter.tokens, meter.prompt_tokens) == (0, first.prompt_tokens)
        gate.let_pass(first.tokens + second.tokens + 2)
        begun.result()
    stream.close()
    gate.open()
    # One token for each run that has ended; the second step was finished but not delivered.
    assert meter == Meter(tokens=second.tokens + 2)
    wait_for_calls(lone, 0)
    assert write(lone, make_request(max_steps=1))[0].text == first.text
    assert meter == Meter(tokens=second.tokens + 2), "the run that was under way gave the call no token"


def test_a_call_that_never_had_its_turn_used_nothing(lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, meter = Gate(lone, monkeypatch), Meter()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(write, lone, make_request())
        gate.wait_until_reached()
        with pytest.raises(StepTimeout):
            list(lone.stream(make_request(step_timeout_s=0.01), Cancellation(), meter))
        gate.open()
        assert first.result()
    assert meter == Meter()


def test_a_step_that_takes_too_long_raises(lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(lone, monkeypatch)
    with pytest.raises(StepTimeout, match=r"within 0.01 s"):
        write(lone, make_request(step_timeout_s=0.01))
    gate.open()
    monkeypatch.undo()
    assert write(lone, make_request())


def test_closing_the_engine_stops_calls_that_run(lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(lone, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        running, waiting = pool.submit(write, lone, make_request()), pool.submit(write, lone, make_request())
        gate.wait_until_reached()
        wait_for_calls(lone, 2)
        closing = pool.submit(lone.close)
        with lone._loop._changed:
            lone._loop._changed.wait_for(lambda: lone._loop._is_closed)
        gate.open()
        closing.result()
        for call in (running, waiting):
            with pytest.raises(EngineStopped):
                call.result()
    with pytest.raises(EngineStopped):
        write(lone, make_request())
    lone.close()


def test_an_engine_that_crashes_ends_all_its_calls(lone: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(lone._model, "compute", fail)
    lone.check()
    for _ in range(2):
        with pytest.raises(EngineDead):
            write(lone, make_request())
    with pytest.raises(EngineDead):
        lone.check()


def test_finished_steps_are_never_computed_again(small: EmbeddedGenerator) -> None:
    problem_id, prefix = uuid4(), list[str]()
    while not prefix or boxed_answer(prefix[-1]) is None:
        (step,) = write(small, make_request(prefix=prefix, max_steps=1, problem_id=problem_id))
        # The last token of a step is written, not read: its keys are computed when the next step begins.
        assert step.cached_tokens == (step.prompt_tokens - 1 if prefix else 0)
        prefix.append(step.text)


def test_a_step_written_by_another_model_is_all_that_is_computed(small: EmbeddedGenerator) -> None:
    problem_id = uuid4()
    first, second = texts(write(small, make_request(problem_id=problem_id, max_steps=2)))
    other = "2) 9+9: 9+9=18, 0+0+1=1, so 18."
    (step,) = write(small, make_request(prefix=[first, other], max_steps=1, problem_id=problem_id))
    shared = len(small.question_ids(QUESTION) + small._model.encode(first + "\n\n"))
    assert second != other
    assert shared <= step.cached_tokens < shared + len(small._model.encode(other))


def test_a_cache_without_room_changes_nothing_but_the_count() -> None:
    engine = EmbeddedGenerator(MODELS / "small", cache_tokens=0)
    problem_id = uuid4()
    first, second = write(engine, make_request(problem_id=problem_id, max_steps=2))
    (again,) = write(engine, make_request(prefix=[first.text], problem_id=problem_id, max_steps=1))
    engine.close()
    assert (again.text, again.cached_tokens) == (second.text, 0)


def test_the_cache_forgets_the_problem_that_was_unused_for_longest() -> None:
    cache = PrefixCache(max_tokens=5)
    kv = np.zeros((1, 2, 1, 2, 4), np.float32)
    a, b, c = uuid4(), uuid4(), uuid4()
    cache.store(a, [1, 2], kv)
    cache.store(b, [1, 2], kv)
    assert cache.longest_prefix(a, [1, 9]) is not None
    cache.store(c, [1, 2], kv)
    assert [cache.longest_prefix(problem_id, [1]) is not None for problem_id in (a, b, c)] == [True, False, True]


def test_the_cache_returns_the_common_prefix_of_two_sequences() -> None:
    cache = PrefixCache(max_tokens=9)
    problem_id = uuid4()
    cache.store(problem_id, [1, 2, 3], np.arange(3, dtype=np.float32).reshape(1, 1, 1, 3, 1))
    found = [cache.longest_prefix(problem_id, ids) for ids in ([1, 2, 4, 5], [1, 2, 3, 4], [1], [7])]
    assert [kv.ravel().tolist() for kv in found if kv is not None] == [[0, 1], [0, 1, 2], [0], []]


def test_a_question_longer_than_the_context_is_refused_with_numbers(small: EmbeddedGenerator) -> None:
    with pytest.raises(InputTooLong, match=r"2\d\d\d tokens long, but embedded/small@\w+ takes 1023 at most"):
        write(small, make_request("7" * 2000))


def test_a_sequence_that_fills_the_context_ends_with_a_step_of_finish_length(small: EmbeddedGenerator) -> None:
    question = "7" * (1024 - 10 - len(small.question_ids("")))
    steps = write(small, make_request(question))
    assert steps[-1].finish is Finish.LENGTH
    assert steps[0].prompt_tokens + sum(step.tokens for step in steps) == 1024


def test_a_step_is_closed_at_its_token_limit(small: EmbeddedGenerator) -> None:
    (step,) = write(small, make_request(max_step_tokens=5, max_steps=1))
    assert (step.finish, step.tokens) == (Finish.LENGTH, 5)


@pytest.mark.parametrize("special", ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<extra_0>"])
def test_text_that_spells_a_special_token_stays_text(
    small: EmbeddedGenerator, prm: EmbeddedScorer, special: str
) -> None:
    for engine in (small, prm):
        reserved = engine._model.tokenizer.token_to_id(special)
        assert reserved not in engine.question_ids(f"What is {special}?")
        assert small._model.tokenizer.decode(engine._model.encode(special)) == special
    assert write(small, make_request(f"{special} has 3 pens. {special}", prefix=[f"1) {special}"], max_steps=1))
    assert len(score(prm, [f"1) {special}", "2) x"], newest=2).values) == 2


def test_the_bytes_of_tokens_join_to_their_text(small: EmbeddedGenerator) -> None:
    text = "Zoë has ½ of 3 pies – \t“x” 🥧.\n\n"
    by_id = small._model.token_bytes
    assert b"".join(by_id[index] for index in small._model.encode(text)).decode() == text
    assert [by_id[index] for index in range(4)] == [b""] * 4


def test_an_id_that_stands_for_no_token_has_an_empty_piece_and_a_token_without_an_id_is_refused(
    small: EmbeddedGenerator,
) -> None:
    tokenizer = small._model.tokenizer
    known = tokenizer.get_vocab_size()
    assert token_bytes(tokenizer, known + 62)[known:] == [b""] * 62
    with pytest.raises(ValueError, match=f"the model has {known - 1}"):
        token_bytes(tokenizer, known - 1)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "model.onnx"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbled"])
def test_a_missing_or_damaged_file_is_reported_with_the_folder(tmp_path: Path, name: str, damage: str) -> None:
    file = folder_copy(MODELS / "small", tmp_path) / name
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:middle])
    else:
        file.write_bytes(
            content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 8]) + content[middle + 8 :]
        )
    with pytest.raises(
        ModelUnusable, match=f"{file.parent}.* or (change TRIM_SMALL_MODEL|run `python -m recipe.export)"
    ):
        make_generator(Settings(small_model=str(file.parent)), Author.SMALL)


def test_a_process_reward_model_writes_nothing() -> None:
    with pytest.raises(ModelUnusable, match="not a Qwen2ForCausalLM; set TRIM_LARGE_MODEL"):
        make_generator(Settings(large_model=str(MODELS / "prm")), Author.LARGE)


def test_a_tokenizer_file_that_requires_truncation_truncates_nothing(tmp_path: Path) -> None:
    file = folder_copy(MODELS / "small", tmp_path) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(file))
    engine = EmbeddedGenerator(file.parent)
    try:
        assert engine._model.encode("1234567") == [*engine._model.encode("1234"), *engine._model.encode("567")]
    finally:
        engine.close()


def test_greedy_and_warm_rows_may_be_mixed() -> None:
    logits = np.array([[0, 3, 1], [5, 0, 0], [0, 0, 9]], np.float32)
    tokens = draw(logits, [GREEDY, Sampling(temperature=1, top_k=1), Sampling(temperature=1, top_p=0.1)], [0, 1, 2])
    assert tokens == [1, 0, 2]


def test_log_probabilities_are_those_of_the_softmax() -> None:
    chances = np.array([[0.5, 0.25, 0.25], [0.01, 0.09, 0.9]])
    shifted = np.log(chances) + np.array([[1000], [-1000]])
    assert log_probabilities(shifted.astype(np.float32), [1, 0]) == pytest.approx(np.log([0.25, 0.01]), abs=1e-3)
    assert log_probabilities(np.array([[9, -9999]], np.float32), [1]) == [-10008]


def test_tokens_are_drawn_with_the_chances_of_the_softmax_within_top_k_and_top_p() -> None:
    chances = np.array([0.4, 0.05, 0.3, 0.25])
    logits = np.tile(np.log(chances).astype(np.float32), (4000, 1))
    for sampling, allowed in (
        (Sampling(temperature=1, top_p=1, top_k=0, seed=1), [0, 1, 2, 3]),
        (Sampling(temperature=1, top_p=1, top_k=3, seed=1), [0, 2, 3]),
        (Sampling(temperature=1, top_p=0.6, top_k=0, seed=1), [0, 2]),
    ):
        counts = np.bincount(draw(logits, [sampling] * 4000, range(4000)), minlength=4)
        expected = np.where(np.isin(range(4), allowed), chances, 0)
        assert np.abs(counts / 4000 - expected / expected.sum()).max() < 0.03
        assert counts[expected == 0].sum() == 0


def test_the_number_that_decides_a_token_hangs_on_seed_and_position_alone() -> None:
    assert uniform(3, 7) == uniform(3, 7)
    drawn = {uniform(seed, position) for seed in range(20) for position in range(20)}
    assert len(drawn) == 400
    assert 0 <= min(drawn) < 0.05
    assert 0.95 < max(drawn) < 1
