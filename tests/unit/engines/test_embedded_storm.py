"""Calls leave the embedded engine at any moment, cancelled, timed out or closed, and it goes on answering."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

from shared.cancellation import Cancellation, Cancelled
from shared.engines.embedded.engine import EmbeddedEngine
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import Meter, ScoringRequest, StepTimeout
from tests.unit.engines.bundled import MODELS, PROBLEMS, make_request, score, texts, wait_for_calls, write

CALLS = 120

CALLERS = pytest.mark.parametrize("callers", [1, 3, 10])
"""Number of threads that share the calls: of few, all may have left before the model runs."""

Call = Callable[[random.Random, Cancellation, float], object]
"""Makes a call with a cancellation and a time-out."""


class Storm:
    """Cancels calls whenever the model is about to run: after their turn was planned, and before it is over."""

    def __init__(self, engine: EmbeddedEngine[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self._rng = random.Random(7)
        self._exposed: set[Cancellation] = set()
        self._changes = threading.Lock()
        compute = engine._model.compute

        def disturbed(**arguments: Any) -> Any:
            with self._changes:
                for cancellation in self._exposed:
                    if self._rng.random() < 0.05:
                        cancellation.cancel()
            return compute(**arguments)

        monkeypatch.setattr(engine._model, "compute", disturbed)

    def rage(self, call: Call, *, callers: int) -> None:
        """Make all calls; each is answered, cancelled or timed out, and ends with no other error."""
        with ThreadPoolExecutor(callers) as pool:
            endings = set(pool.map(lambda seed: self._ending(call, random.Random(seed)), range(CALLS)))
        assert StepTimeout in endings

    def _ending(self, call: Call, rng: random.Random) -> object:
        cancellation = Cancellation()
        with self._changes:
            self._exposed.add(cancellation)
        try:
            call(rng, cancellation, rng.choice([0.0, 0.005, 0.03, 60.0]))
        except (Cancelled, StepTimeout) as error:
            return type(error)
        finally:
            with self._changes:
                self._exposed.discard(cancellation)
        return "answered"


@pytest.fixture
def generator() -> Iterator[EmbeddedGenerator]:
    with closing(EmbeddedGenerator(MODELS / "small", max_batch=4)) as engine:
        yield engine


@pytest.fixture
def scorer() -> Iterator[EmbeddedScorer]:
    with closing(EmbeddedScorer(MODELS / "prm-lite", max_batch=4)) as engine:
        yield engine


@CALLERS
def test_a_generator_outlives_calls_that_leave_at_any_moment(
    generator: EmbeddedGenerator, monkeypatch: pytest.MonkeyPatch, callers: int
) -> None:
    before = texts(write(generator, make_request(max_steps=2)))

    def call(rng: random.Random, cancellation: Cancellation, timeout_s: float) -> None:
        question = rng.choice(PROBLEMS)["question"]
        # A small limit closes and restarts steps often, and a call that takes fewer steps than it asked for closes.
        request = make_request(question, max_step_tokens=6, max_steps=rng.randint(1, 4), step_timeout_s=timeout_s)
        with closing(generator.stream(request, cancellation, Meter())) as steps:
            list(islice(steps, rng.randint(1, 4)))

    Storm(generator, monkeypatch).rage(call, callers=callers)
    wait_for_calls(generator, 0)
    assert texts(write(generator, make_request(max_steps=2))) == before


@CALLERS
def test_a_scorer_outlives_calls_that_leave_at_any_moment(
    scorer: EmbeddedScorer, monkeypatch: pytest.MonkeyPatch, callers: int
) -> None:
    before = score(scorer, ["1) One.", "2) Two."], newest=2).values

    def call(rng: random.Random, cancellation: Cancellation, timeout_s: float) -> None:
        request = ScoringRequest(
            problem_id=make_request().problem_id,
            question=rng.choice(PROBLEMS)["question"],
            steps=("1) One.",) * rng.randint(1, 9),
            newest=1,
            timeout_s=timeout_s,
        )
        scorer.score(request, cancellation, Meter())

    Storm(scorer, monkeypatch).rage(call, callers=callers)
    wait_for_calls(scorer, 0)
    assert score(scorer, ["1) One.", "2) Two."], newest=2).values == pytest.approx(before, abs=1e-4)
