"""Solves problems by the method's loop with the embedded engine, without a service around it.

What a model says after a prefix is remembered, so that a second policy on the same problem only pays for the
prefixes at which it goes another way: a whole curve of thresholds costs little more than one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID, uuid4

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Limits, Sampling
from shared.domain.roles import Author
from shared.domain.text import boxed_answer
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import GeneratedStep, GenerationRequest, ScoringRequest

IN_FLIGHT = 64
"""Problems that are solved at once, so that the engines have something to batch."""

GREEDY = Sampling(temperature=0)

LIMITS = Limits(max_steps=16, max_step_tokens=96)

TIMEOUT_S = 600.0
"""For one step, however busy the machine is."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Models:
    """The bundled models, loaded. Without a PRM's folder nothing can be scored."""

    def __init__(self, small: Path, large: Path, prm: Path | None = None) -> None:
        self._generators = {Author.SMALL: EmbeddedGenerator(small), Author.LARGE: EmbeddedGenerator(large)}
        self._scorer = EmbeddedScorer(prm) if prm else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self._generators.values():
            engine.close()
        if self._scorer:
            self._scorer.close()

    def step(
        self, role: Author, problem_id: UUID, question: str, prefix: tuple[str, ...], sampling: Sampling
    ) -> GeneratedStep:
        """Write the step that follows a prefix."""
        request = GenerationRequest(
            problem_id=problem_id,
            question=question,
            prefix=prefix,
            max_steps=1,
            max_step_tokens=LIMITS.max_step_tokens,
            max_tokens=LIMITS.max_tokens,
            step_timeout_s=TIMEOUT_S,
            sampling=sampling,
        )
        return next(iter(self._generators[role].stream(request, Cancellation())))

    def score(self, problem_id: UUID, question: str, steps: tuple[str, ...]) -> float:
        """Score the last of some steps.

        Raises:
            RuntimeError: There is no PRM.
        """
        if self._scorer is None:
            raise RuntimeError("these models were loaded without a PRM")
        request = ScoringRequest(problem_id=problem_id, question=question, steps=steps, newest=1, timeout_s=TIMEOUT_S)
        return self._scorer.score(request, Cancellation()).values[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A finished trajectory."""

    steps: tuple[str, ...]
    escalated: int
    large_tokens: int

    @property
    def answer(self) -> str | None:
        """What the last step boxes."""
        return boxed_answer(self.steps[-1])


Escalates = Callable[[tuple[str, ...]], bool]
"""Decides whether the last of some steps, a draft, is written again."""


@dataclass(kw_only=True, eq=False)
class Solver:
    """One problem, and what the models said about it so far."""

    models: Models
    question: str
    sampling: Sampling = GREEDY
    problem_id: UUID = field(default_factory=uuid4)
    _steps: dict[tuple[Author, tuple[str, ...]], GeneratedStep] = field(default_factory=dict)
    _scores: dict[tuple[str, ...], float] = field(default_factory=dict)

    def step(self, role: Author, prefix: tuple[str, ...]) -> GeneratedStep:
        """Give the step that a model writes after a prefix."""
        if (role, prefix) not in self._steps:
            step = self.models.step(role, self.problem_id, self.question, prefix, self.sampling)
            self._steps[role, prefix] = step
        return self._steps[role, prefix]

    def score(self, steps: tuple[str, ...]) -> float:
        """Give the score of the last of some steps."""
        if steps not in self._scores:
            self._scores[steps] = self.models.score(self.problem_id, self.question, steps)
        return self._scores[steps]

    def solve(self, escalates: Escalates) -> Solution:
        """Solve the problem: the small model drafts each step, the large one writes those again that are escalated."""
        prefix: tuple[str, ...] = ()
        escalated = large_tokens = 0
        while len(prefix) < LIMITS.max_steps:
            step = self.step(Author.SMALL, prefix)
            if escalates((*prefix, step.text)):
                step = self.step(Author.LARGE, prefix)
                escalated += 1
                large_tokens += step.tokens
            prefix = (*prefix, step.text)
            if ends_solution(step):
                break
        return Solution(steps=prefix, escalated=escalated, large_tokens=large_tokens)

    def solve_alone(self, role: Author) -> Solution:
        """Solve the problem with one model."""
        if role is Author.SMALL:
            return self.solve(lambda _: False)
        prefix: tuple[str, ...] = ()
        tokens = 0
        while len(prefix) < LIMITS.max_steps:
            step = self.step(role, prefix)
            prefix, tokens = (*prefix, step.text), tokens + step.tokens
            if ends_solution(step):
                break
        return Solution(steps=prefix, escalated=len(prefix), large_tokens=tokens)

    def solve_above(self, threshold: float) -> Solution:
        """Solve the problem, escalating drafts that score below a threshold."""
        return self.solve(lambda steps: self.score(steps) < threshold)


def ends_solution(step: GeneratedStep) -> bool:
    """Tell whether nothing follows a step: the model ended, answered, or twice had nothing to say."""
    return step.finish is Finish.ENDED or boxed_answer(step.text) is not None or not step.text


def at_once(work: Callable[[Item], Answer], items: Iterable[Item]) -> Sequence[Answer]:
    """Work on items, many at a time; the answers come in the items' order."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(work, items))
