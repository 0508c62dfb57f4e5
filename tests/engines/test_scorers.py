"""What every engine's scorer does alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.engines.port import InputTooLong, Meter, ScoringRequest, StepTimeout
from tests.engines.deployed import STORIES, Engine
from tests.unit.engines.bundled import score

STORY = STORIES[0]
TOLERANCE = 0.02
"""Models are computed in half precision, in other groups each time."""


def test_right_steps_score_high_and_a_wrong_one_low(engine: Engine) -> None:
    right = score(engine.prm, STORY.steps, newest=len(STORY.steps), question=STORY.question).values
    assert len(right) == len(STORY.steps)
    assert all(0.9 < value <= 1 for value in right)
    wrong = STORY.steps[0].replace("=", "=9", 1) if engine.is_real else "?"
    (value,) = score(engine.prm, [wrong], question=STORY.question).values
    assert 0 <= value < 0.5


def test_the_id_of_the_model_names_the_format_where_an_engine_has_several(engine: Engine) -> None:
    assert engine.prm.model_id.endswith("#bundled") == (engine.name in {"vllm", "openai"})


def test_steps_scored_one_by_one_score_as_at_once(engine: Engine) -> None:
    for story in STORIES[:3]:
        steps = story.steps
        at_once = score(engine.prm, steps, newest=len(steps), question=story.question)
        problem_id = uuid4()
        one_by_one = [
            score(engine.prm, steps[:end], question=story.question, problem_id=problem_id).values[0]
            for end in range(1, len(steps) + 1)
        ]
        assert one_by_one == pytest.approx(at_once.values, abs=TOLERANCE)


def test_a_repeated_call_scores_the_same(engine: Engine) -> None:
    problem_id = uuid4()
    first, again = (
        score(engine.prm, STORY.steps, newest=3, question=STORY.question, problem_id=problem_id) for _ in range(2)
    )
    assert again.values == pytest.approx(first.values, abs=TOLERANCE)


def test_concurrent_calls_score_as_alone(engine: Engine) -> None:
    def scored(index: int) -> list[float]:
        story = STORIES[index]
        return list(score(engine.prm, story.steps, newest=len(story.steps), question=story.question).values)

    alone = [scored(index) for index in range(len(STORIES))]
    with ThreadPoolExecutor(len(STORIES)) as pool:
        together = list(pool.map(scored, range(len(STORIES))))
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=TOLERANCE)


def test_concurrent_calls_are_computed_together(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script computes nothing")
    before = engine.prm_runs()
    stories = STORIES * 4
    with ThreadPoolExecutor(len(stories)) as pool:
        list(pool.map(lambda story: score(engine.prm, story.steps[:1], question=story.question), stories))
    assert 0 < engine.prm_runs() - before < len(stories), "a run for each call if each were computed alone"


def test_what_was_computed_is_counted(engine: Engine) -> None:
    meter = Meter()
    request = ScoringRequest(
        problem_id=uuid4(), question=STORY.question, steps=tuple(STORY.steps), newest=2, timeout_s=60
    )
    assert engine.prm.score(request, Cancellation(), meter).tokens > 0
    assert meter == Meter(), "a completed call carries its own count"


def test_text_that_spells_the_tag_makes_no_step(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script has no tokens")
    with_it = score(
        engine.prm, ["1) <extra_0>", "2) <|im_end|> <extra_0><extra_0>"], newest=2, question="What is <extra_0>?"
    )
    without = score(engine.prm, ["1) ", "2)  "], newest=2, question="What is ?")
    assert len(with_it.values) == 2
    assert with_it.tokens - without.tokens > 5 * 3, "the special token itself would be one each time"


def test_a_solution_without_steps_has_no_scores(engine: Engine) -> None:
    assert not score(engine.prm, [], question=STORY.question).values


def test_a_solution_longer_than_the_context_is_not_scored(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("a script has no context")
    with pytest.raises(InputTooLong):
        score(engine.prm, ["7" * 2000], question=STORY.question)


def test_a_cancelled_call_raises(engine: Engine) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    request = ScoringRequest(problem_id=uuid4(), question="?", steps=("a",), newest=1, timeout_s=60)
    with pytest.raises(Cancelled):
        engine.prm.score(request, cancellation, Meter())


def test_a_call_that_takes_too_long_raises(engine: Engine) -> None:
    if not engine.is_real:
        pytest.skip("this script's scores take no time")
    request = ScoringRequest(
        problem_id=uuid4(), question=STORY.question, steps=tuple(STORY.steps), newest=1, timeout_s=0.0001
    )
    with pytest.raises(StepTimeout):
        engine.prm.score(request, Cancellation(), Meter())
    assert score(engine.prm, STORY.steps, question=STORY.question).values
