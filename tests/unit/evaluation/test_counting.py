"""Counting what engines compute, by hand: a token is a letter, and each step ends with one more."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from evaluation.counting import CountingGenerator, CountingScorer
from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, Scores, ScoringRequest


class Letters:
    """An engine that writes given steps, and reports counts that are not to be believed."""

    model_id = "letters"

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def question_ids(self, question: str) -> list[int]:
        return [ord(letter) for letter in question]

    def step_ids(self, text: str) -> list[int]:
        return [*(ord(letter) for letter in text), 0]

    def stream(self, request: GenerationRequest, cancellation: Cancellation, meter: Meter) -> Iterator[GeneratedStep]:
        for text in self._texts:
            yield GeneratedStep(
                text=text, finish=Finish.SEPARATOR, tokens=len(text) + 1, prompt_tokens=99, cached_tokens=98
            )

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        return Scores(values=(0.5,) * request.newest, tokens=0)

    def check(self) -> None: ...

    def close(self) -> None: ...


def written(engine: CountingGenerator, *prefix: str, problem: int = 1) -> list[tuple[int, int]]:
    """Continue a prefix; return the input of each step, and how much of it was cached."""
    request = GenerationRequest(
        problem_id=UUID(int=problem), question="abc", prefix=prefix, max_steps=9, max_step_tokens=9, max_tokens=99,
        step_timeout_s=1.0, sampling=Sampling(),
    )  # fmt: skip
    return [(step.prompt_tokens, step.cached_tokens) for step in engine.stream(request, Cancellation(), Meter())]


def scored(engine: CountingScorer, *steps: str, newest: int = 1) -> int:
    request = ScoringRequest(problem_id=UUID(int=1), question="abc", steps=steps, newest=newest, timeout_s=1.0)
    return engine.score(request, Cancellation(), Meter()).tokens


def test_the_first_step_of_a_call_has_the_input_of_the_call() -> None:
    letters = Letters("de", "fg")
    assert written(CountingGenerator(letters, letters, {})) == [(3, 0), (0, 0)]


def test_a_model_that_continues_its_step_computes_its_last_token_alone() -> None:
    letters = Letters("de")
    engine = CountingGenerator(letters, letters, {})
    written(engine)
    assert written(engine, "de") == [(6, 5)]
    assert written(engine, "de") == [(6, 5)], "the last token is computed in any case"


def test_a_step_that_replaces_a_draft_is_computed_from_where_it_differs() -> None:
    letters = Letters("de")
    engine = CountingGenerator(letters, letters, {})
    written(engine)
    assert written(engine, "dx") == [(6, 4)]


def test_another_problem_finds_nothing_cached() -> None:
    letters = Letters("de")
    engine = CountingGenerator(letters, letters, {})
    written(engine)
    assert written(engine, "de", problem=2) == [(6, 0)]


def test_a_scorer_computes_what_is_new_and_the_tag_of_each_step_to_score() -> None:
    letters = Letters()
    engine = CountingScorer(letters, letters, {})
    assert scored(engine, "de") == 6
    assert scored(engine, "de", "fg") == 3
    assert scored(engine, "de", "fx", "hi", newest=2) == 2 + 3, "the second step differs from the scored draft"
    assert scored(engine, "de", "fx", "hi", newest=2) == 1 + 3, "the tag of the second step is computed again"
