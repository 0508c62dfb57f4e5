"""The embedded engine's scorer, on the bundled PRM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.factory import make_scorer
from shared.engines.port import InputTooLong, Meter, ModelUnusable, ScoringRequest, StepTimeout
from shared.settings import Settings
from tests.unit.engines.bundled import (
    MODELS,
    QUESTION,
    Gate,
    folder_copy,
    make_request,
    score,
    texts,
    wait_for_calls,
    write,
)


def test_a_wrong_step_scores_lower(large: EmbeddedGenerator, prm: EmbeddedScorer) -> None:
    steps = texts(write(large, make_request()))
    right = score(prm, steps, newest=len(steps)).values
    assert all(0.5 < value <= 1 for value in right)
    head, _, result = steps[1].rpartition("so ")
    wrong = f"{head}so {(int(result[0]) + 3) % 10}{result[1:]}"
    (value,) = score(prm, [steps[0], wrong]).values
    assert 0 <= value < 0.5


def test_steps_scored_one_by_one_score_as_at_once(large: EmbeddedGenerator, prm: EmbeddedScorer) -> None:
    steps = texts(write(large, make_request()))
    at_once = score(prm, steps, newest=len(steps))
    problem_id = uuid4()
    one_by_one = [score(prm, steps[: count + 1], problem_id=problem_id) for count in range(len(steps))]
    assert [each.values[0] for each in one_by_one] == pytest.approx(at_once.values, abs=1e-5)
    # Whatever a call has computed, the next one takes from the cache.
    assert sum(each.tokens for each in one_by_one) == at_once.tokens


def test_a_step_that_is_scored_again_is_computed_again_from_its_last_token_on(prm: EmbeddedScorer) -> None:
    problem_id = uuid4()
    first = score(prm, ["1) 1+1=2."], problem_id=problem_id)
    again = score(prm, ["1) 1+1=2."], problem_id=problem_id)
    assert again.tokens == 1
    assert again.values == pytest.approx(first.values, abs=1e-5)


def test_concurrent_scorings_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddedScorer(MODELS / "prm")
    steps = [f"1) 1+{number}={number + 1}." for number in range(8)]
    alone = [score(engine, [step]).values for step in steps]
    runs = engine._model.runs
    gate = Gate(engine, monkeypatch)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(score, engine, ["1) 1+1=2."])
        gate.wait_until_reached()
        others = [pool.submit(score, engine, [step]) for step in steps]
        wait_for_calls(engine, 9)
        gate.open()
        first.result()
        together = [call.result().values for call in others]
    engine.close()
    assert engine._model.runs == runs + 2
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_solution_longer_than_the_context_is_not_scored(prm: EmbeddedScorer) -> None:
    with pytest.raises(InputTooLong):
        score(prm, ["7" * 2000])


def test_a_solution_without_steps_has_no_scores(prm: EmbeddedScorer) -> None:
    assert score(prm, []).values == ()


def test_a_cancelled_scoring_raises(prm: EmbeddedScorer) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    request = ScoringRequest(problem_id=uuid4(), question=QUESTION, steps=("a",), newest=1, timeout_s=60)
    with pytest.raises(Cancelled):
        prm.score(request, cancellation, Meter())


def test_a_scoring_that_is_cancelled_before_its_turn_disturbs_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cancellation = Cancellation()
    request = ScoringRequest(problem_id=uuid4(), question=QUESTION, steps=("a",), newest=1, timeout_s=60)
    with closing(EmbeddedScorer(MODELS / "prm")) as engine, ThreadPoolExecutor(2) as pool:
        gate = Gate(engine, monkeypatch)
        first = pool.submit(score, engine, ["1) 1+1=2."])
        gate.wait_until_reached()
        cancelled = pool.submit(engine.score, request, cancellation, Meter())
        wait_for_calls(engine, 2)
        cancellation.cancel()
        gate.open()
        assert isinstance(cancelled.exception(), Cancelled)
        assert first.result().values
        assert score(engine, ["1) 1+1=2."]).values


def test_a_scoring_that_takes_too_long_meters_what_is_computed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(EmbeddedScorer(MODELS / "prm")) as engine:
        tokens = score(engine, ["1) 1+1=2."]).tokens
        gate, meter = Gate(engine, monkeypatch), Meter()
        request = ScoringRequest(problem_id=uuid4(), question=QUESTION, steps=("1) 1+1=2.",), newest=1, timeout_s=2)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(engine.score, request, Cancellation(), meter)
            gate.wait_until_reached()
            assert isinstance(call.exception(), StepTimeout)
        gate.open()
        assert meter == Meter(tokens=tokens)


def test_each_run_of_a_batch_shows_that_the_engine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose engine shows nothing for too long judges it dead, however slow the processor is."""
    texts_of_groups = ["1) 1+1=2. " * 60, "1) 1+1=2. " * 20, "1) 1+1=2."]
    with closing(EmbeddedScorer(MODELS / "prm")) as engine, ThreadPoolExecutor(4) as pool:
        gate = Gate(engine, monkeypatch)
        first = pool.submit(score, engine, ["1) 1+1=2."])
        gate.wait_until_reached()
        meters = [Meter() for _ in texts_of_groups]
        calls = [
            pool.submit(
                engine.score,
                ScoringRequest(problem_id=uuid4(), question=QUESTION, steps=(text,), newest=1, timeout_s=60),
                Cancellation(),
                meter,
            )
            for text, meter in zip(texts_of_groups, meters, strict=True)
        ]
        wait_for_calls(engine, 4)
        shown = []
        for _ in meters:
            gate.let_pass(1)
            shown.append([meter.tokens > 0 for meter in meters])
        gate.open()
        assert first.result()
        assert all(call.result() for call in calls)
    assert shown == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_tokenizer_without_the_step_tag_is_reported_with_the_setting(tmp_path: Path) -> None:
    folder = folder_copy(MODELS / "prm", tmp_path)
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer.replace("<extra_0>", "<extra_1>"))
    with pytest.raises(ModelUnusable, match=r"no token <extra_0>.*change TRIM_PRM_MODEL"):
        make_scorer(Settings(prm_model=str(folder)))


def test_a_language_model_is_no_scorer() -> None:
    with pytest.raises(ModelUnusable, match="not a Qwen2ForProcessRewardModel; set TRIM_PRM_MODEL"):
        make_scorer(Settings(prm_model=str(MODELS / "large")))
