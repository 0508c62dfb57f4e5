"""The method's loop and nothing else.

The service is compared with it, so of the service's code it uses nothing but the rule for where a solution ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.domain.drafts import Finish
from shared.domain.endings import final_answer, find_ending
from shared.domain.roles import Author

THRESHOLD = 0.5


class Step(Protocol):
    """A step that an engine wrote."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def has_ended(self) -> bool:
        """Whether the model ended the solution with it."""


SomeStep = TypeVar("SomeStep", bound=Step)


@dataclass(frozen=True, slots=True)
class Run:
    """Result of a run."""

    steps: int
    answers: Sequence[str | None]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BareLoop(Generic[SomeStep]):
    """The small model drafts each step, and the large model rewrites those that score below the threshold."""

    write: Callable[[Author, str, Sequence[SomeStep]], Awaitable[SomeStep]]
    """Write the step after a question and the steps so far."""
    score: Callable[[str, Sequence[SomeStep]], Awaitable[float]]
    """Score the last of the steps."""
    max_steps: int

    async def solve(self, question: str) -> tuple[int, str | None]:
        """Solve a problem; return the number of steps and the answer."""
        steps: list[SomeStep] = []
        while len(steps) < self.max_steps:
            step = await self.write(Author.SMALL, question, steps)
            if await self.score(question, [*steps, step]) < THRESHOLD:
                step = await self.write(Author.LARGE, question, steps)
            texts = [each.text for each in steps]
            steps.append(step)
            finish = Finish.ENDED if step.has_ended else Finish.SEPARATOR
            if find_ending(step.text, finish=finish, before=texts, question=question) is not None:
                break
        return len(steps), final_answer([each.text for each in steps], question=question)

    async def run(self, questions: Sequence[str], *, in_flight: int) -> Run:
        """Solve problems, a limited number of them at the same time, and measure how long it takes."""
        places = asyncio.Semaphore(in_flight)

        async def solve(question: str) -> tuple[int, str | None]:
            async with places:
                return await self.solve(question)

        started = time.perf_counter()
        solutions = await asyncio.gather(*(solve(question) for question in questions))
        seconds = time.perf_counter() - started
        return Run(sum(steps for steps, _ in solutions), [answer for _, answer in solutions], seconds)
