"""Counts the tokens that engines compute in one run, although remembering engines compute each step only once.

A remembering engine reports the input of the run that wrote a step first, and none for a known score. These wrappers
report what an engine without memory would: the input that its prefix cache does not hold. They reproduce the cache of
the embedded engine while it evicts nothing.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol
from uuid import UUID

from shared.cancellation import Cancellation
from shared.engines.port import GeneratedStep, GenerationRequest, Generator, Meter, Scorer, Scores, ScoringRequest
from simulation.workers import Engines


class Reader(Protocol):
    """Encodes what an engine reads."""

    def question_ids(self, question: str) -> list[int]:
        """Encode a question; every solution of it begins with these ids."""

    def step_ids(self, text: str) -> list[int]:
        """Encode a step as the engine reads it after the question and the steps before it."""


class RememberingReader:
    """Encodes each text once."""

    def __init__(self, reader: Reader) -> None:
        self.question_ids, self.step_ids = cache(reader.question_ids), cache(reader.step_ids)


Held = dict[UUID, list[int]]
"""The last sequence of ids that a prefix cache holds of each problem. Sequences are replaced, never changed."""


class _Input:
    """Input ids of problems, and what a prefix cache holds of them."""

    def __init__(self, reader: Reader, held: Held) -> None:
        self._reader = reader
        self._held = held

    def ids(self, question: str, steps: Sequence[str]) -> list[int]:
        """Encode a question and the steps after it."""
        return [*self._reader.question_ids(question), *(each for step in steps for each in self._reader.step_ids(step))]

    def cached(self, problem_id: UUID, ids: Sequence[int]) -> int:
        """Count the first ids that the cache holds."""
        held = self._held.get(problem_id, [])
        pairs = enumerate(zip(held, ids, strict=False))
        return next((place for place, (ours, theirs) in pairs if ours != theirs), min(len(held), len(ids)))

    def store(self, problem_id: UUID, ids: list[int]) -> None:
        """Replace the problem's sequence."""
        self._held[problem_id] = ids


class CountingGenerator:
    """Reports the input that a generator computes; it updates what the cache holds."""

    def __init__(self, engine: Generator, reader: Reader, held: Held) -> None:
        self._engine = engine
        self._input = _Input(reader, held)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield steps; the first one has the input of the call."""
        steps = request.prefix
        ids = self._input.ids(request.question, steps)
        # The last id is computed in any case, because the next token depends on its output.
        prompt, cached = len(ids), self._input.cached(request.problem_id, ids[:-1])
        for step in self._engine.stream(request, cancellation, meter):
            steps = (*steps, step.text)
            # An engine has not computed the last id that it wrote.
            self._input.store(request.problem_id, self._input.ids(request.question, steps)[:-1])
            yield replace(step, prompt_tokens=prompt, cached_tokens=cached)
            prompt = cached = 0

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Do nothing: the engine outlives the run."""


class CountingScorer:
    """Reports the tokens that a scorer computes; it updates what the cache holds."""

    def __init__(self, engine: Scorer, reader: Reader, held: Held) -> None:
        self._engine = engine
        self._input = _Input(reader, held)

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps."""
        scores = self._engine.score(request, cancellation, meter)
        ids = self._input.ids(request.question, request.steps)
        # The last id of each step to score is computed in any case, because the score is its output.
        first = self._input.ids(request.question, request.steps[: len(request.steps) - request.newest + 1])
        cached = self._input.cached(request.problem_id, first[:-1])
        self._input.store(request.problem_id, ids)
        return replace(scores, tokens=len(ids) - cached)

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Do nothing: the engine outlives the run."""


@dataclass(frozen=True, slots=True)
class Caches:
    """What the engines' prefix caches hold at one moment of a run."""

    small: Held = field(default_factory=dict)
    large: Held = field(default_factory=dict)
    prm: Held = field(default_factory=dict)

    def copy(self) -> Caches:
        """Copy the caches, so that two runs can go on from the same moment."""
        return Caches(dict(self.small), dict(self.large), dict(self.prm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """How each engine encodes what it reads."""

    small: Reader
    large: Reader
    prm: Reader | None

    def counting(self, engines: Engines, caches: Caches) -> Engines:
        """Return engines that report what engines without memory would compute; they update the caches."""
        return Engines(
            small=CountingGenerator(engines.small, self.small, caches.small),
            large=CountingGenerator(engines.large, self.large, caches.large),
            prm=None if engines.prm is None or self.prm is None else CountingScorer(engines.prm, self.prm, caches.prm),
        )
