"""Reads files of step-labelled solutions: one JSON object a line, in the layout of ProcessBench (arXiv 2412.06559).

A line has its question as `question` or `problem`, the texts of its `steps`, and as `label` or `first_error` the index
of the first wrong step, or -1 or null if all are right. It may have an `author`, `small` (the default) or `large`, and
the `tokens` of each step. Without these, a step counts a token for each four characters, a common rule of thumb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from evaluation.engines import LoadedEngines
from evaluation.in_process import Tell, score
from shared.domain.roles import Author
from shared.errors import PermanentError
from shared.policies.pomdp.model import MAX_TOKENS
from training.traces import Trace

CHARACTERS_PER_TOKEN = 4

MAX_NUMBER = int(MAX_TOKENS)
"""Largest number of a line."""

Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_NUMBER)]


class UnusableSolutions(PermanentError):
    """A line is not a step-labelled solution; write one JSON object a line, with `question`, `steps` and `label`."""

    code = "unusable_solutions"


class LabelledSolution(BaseModel):
    """A solution whose first wrong step is known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1, validation_alias=AliasChoices("question", "problem"))
    steps: tuple[str, ...] = Field(min_length=1)
    label: int | None = Field(strict=True, ge=-1, le=MAX_NUMBER, validation_alias=AliasChoices("label", "first_error"))
    author: Author = Author.SMALL
    tokens: tuple[Tokens, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> LabelledSolution:
        if self.label is not None and self.label >= len(self.steps):
            raise ValueError(f"step {self.label} cannot be the first wrong one of {len(self.steps)}")
        if self.tokens is not None and len(self.tokens) != len(self.steps):
            raise ValueError(f"{len(self.steps)} steps have {len(self.tokens)} token counts")
        return self

    def trace(self, scores: Sequence[float]) -> Trace:
        """Return the solution with the scores of its steps."""
        return Trace(
            question=self.question,
            scores=tuple(scores),
            tokens=self.tokens or tuple(max(1, len(step) // CHARACTERS_PER_TOKEN) for step in self.steps),
            authors=(self.author,) * len(self.steps),
            first_error=None if self.label in (None, -1) else self.label,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """The solutions of a file."""

    path: Path
    solutions: Sequence[LabelledSolution]

    @property
    def data(self) -> Mapping[str, Any]:
        """What an artefact's card holds of them."""
        return {"source": self.path.name, "labels": "of the file"}


def read_labelled(path: Path, *, count: int | None = None) -> LabelledFile:
    """Read a file of step-labelled solutions; empty lines are skipped.

    Args:
        path: The file, in UTF-8.
        count: Maximum number of solutions; the first ones. The default is all.

    Raises:
        UnusableSolutions: The file cannot be read or is empty, or a line is not a labelled solution.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # Texts may hold other line separators.
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableSolutions(f"{path} cannot be read ({type(error).__name__}); name a file of solutions.") from None
    solutions = [_read(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not solutions:
        raise UnusableSolutions(f"{path} is empty; write one labelled solution a line.")
    return LabelledFile(path=path, solutions=solutions[:count])


def score_all(
    solutions: Sequence[LabelledSolution], engines: LoadedEngines, *, tell: Tell = lambda _done, _count: None
) -> list[Trace]:
    """Score the steps of solutions. Those with a step without a usable score are left out.

    Raises:
        EngineDead: The PRM cannot go on.
    """

    def trace(pair: tuple[int, LabelledSolution]) -> Trace | None:
        number, solution = pair
        steps = solution.steps
        found = score(solution.question, steps, engines, newest=len(steps), problem_id=UUID(int=number))
        known = [value for value in found if value is not None]
        return solution.trace(known) if len(known) == len(steps) else None

    traces: list[Trace] = []
    with ThreadPoolExecutor(engines.concurrency) as pool:
        for done, each in enumerate(pool.map(trace, enumerate(solutions)), start=1):
            tell(done, len(solutions))
            traces += [each] if each else []
    return traces


def _read(path: Path, number: int, line: str) -> LabelledSolution:
    try:
        return LabelledSolution.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    raise UnusableSolutions(f"{path}, line {number}: {reason}.")
