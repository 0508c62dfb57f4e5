"""Engines that remember what a model said after a prefix.

A second policy on the same problems pays only for the prefixes at which it goes another way, so that a whole curve of
policies costs little more than one.
"""

from __future__ import annotations

from collections import abc
from contextlib import closing
from dataclasses import replace
from typing import Protocol, TypeVar

from shared.cancellation import Cancellation
from shared.domain.endings import find_ending
from shared.domain.options import Sampling
from shared.engines.port import (
    GeneratedStep,
    GenerationRequest,
    Generator,
    Meter,
    Scorer,
    Scores,
    ScoringRequest,
)

StepKey = tuple[str, tuple[str, ...], Sampling, int]
"""What a step depends on: question, prefix, sampling, and the number of tokens at which it is cut."""

ScoreKey = tuple[str, tuple[str, ...]]
"""What a score depends on: question, and all steps up to the scored one."""

Key_contra = TypeVar("Key_contra", contravariant=True)
Value = TypeVar("Value")


class Memory(Protocol[Key_contra, Value]):
    """Where an engine keeps what it knows: a dictionary, or a file (`simulation/memory_file.py`)."""

    def get(self, key: Key_contra, /) -> Value | None:
        """Return the value of a key, or `None`."""

    def __setitem__(self, key: Key_contra, value: Value, /) -> None:
        """Store the value of a key."""


class RememberingGenerator:
    """Writes each step after a prefix once."""

    def __init__(self, engine: Generator, known: Memory[StepKey, GeneratedStep] | None = None) -> None:
        self._engine = engine
        self._known: Memory[StepKey, GeneratedStep] = {} if known is None else known

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield known steps, then those that the engine writes after them.

        The engine reports confidence for all steps, so that they serve any later request.
        """
        prefix, tokens = request.prefix, 0
        end = len(prefix) + request.max_steps
        while len(prefix) < end and (not tokens or tokens < request.max_tokens):
            cancellation.raise_if_cancelled()
            step = self._known.get(self._key(request, prefix))
            if step is None:
                rest = replace(
                    request, prefix=prefix, max_steps=end - len(prefix), max_tokens=request.max_tokens - tokens
                )
                yield from self._write(rest, cancellation, meter)
                return
            yield _as_requested(step, request)
            ending = find_ending(step.text, finish=step.finish, before=prefix, question=request.question)
            if ending is not None:
                return
            prefix, tokens = (*prefix, step.text), tokens + step.tokens + step.estimated_tokens

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _write(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        prefix = request.prefix
        with closing(self._engine.stream(replace(request, reports_confidence=True), cancellation, meter)) as steps:
            for step in steps:
                self._known[self._key(request, prefix)] = step
                yield _as_requested(step, request)
                prefix = (*prefix, step.text)

    def _key(self, request: GenerationRequest, prefix: tuple[str, ...]) -> StepKey:
        return request.question, prefix, request.sampling, request.max_step_tokens


def _as_requested(step: GeneratedStep, request: GenerationRequest) -> GeneratedStep:
    return step if request.reports_confidence else replace(step, mean_logprob=None, min_logprob=None)


class RememberingScorer:
    """Scores each step after a prefix once."""

    def __init__(self, engine: Scorer, known: Memory[ScoreKey, float] | None = None) -> None:
        self._engine = engine
        self._known: Memory[ScoreKey, float] = {} if known is None else known

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.model_id

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Return known scores, and have the engine score from the first unknown step on."""
        steps = request.steps
        keys = [(request.question, steps[:end]) for end in range(len(steps) - request.newest + 1, len(steps) + 1)]
        known: list[float] = []
        for key in keys:
            if (value := self._known.get(key)) is None:
                break
            known.append(value)
        unknown = keys[len(known) :]
        if not unknown:
            return Scores(values=known, tokens=0)
        scores = self._engine.score(replace(request, newest=len(unknown)), cancellation, meter)
        if len(scores.values) != len(unknown):
            return scores
        for key, value in zip(unknown, scores.values, strict=True):
            self._known[key] = value
        return replace(scores, values=[*known, *scores.values])

    def check(self) -> None:
        """Check the engine."""
        self._engine.check()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
