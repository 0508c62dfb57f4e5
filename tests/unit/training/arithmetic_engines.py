"""Engines whose errors are known: a solution is right if none of its steps is bad."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluation.engines import LoadedEngines
from evaluation.problem_sources import ProblemSet
from shared.cancellation import Cancellation
from shared.domain.artefacts import ModelIds
from shared.domain.drafts import Finish
from shared.domain.roles import Author
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, Scores, ScoringRequest
from simulation.memory_file import MemoryFile
from simulation.remembering import RememberingGenerator, RememberingScorer

STEPS = 6
RIGHT = "7"

Errs = Callable[[str, int], bool]
"""Tells for a question and the index of a step whether the model errs there."""


class Writer:
    """Writes `STEPS` steps; the last one has the answer."""

    def __init__(self, author: Author, errs: Errs) -> None:
        self.model_id = f"{author}@1"
        self.calls = 0
        self.right = RIGHT
        """How it writes the right answer."""
        self._author, self._errs = author, errs

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        self.calls += 1
        prefix = request.prefix
        for index in range(len(prefix), min(STEPS, len(prefix) + request.max_steps)):
            cancellation.raise_if_cancelled()
            word = "bad" if self._errs(request.question, index) else "good"
            text = f"{index} {self._author} {word}"
            if index == STEPS - 1:
                is_right = "bad" not in " ".join((*prefix, text))
                text += f". The answer is \\boxed{{{self.right if is_right else 0}}}."
            prefix = (*prefix, text)
            yield GeneratedStep(text=text, finish=Finish.SEPARATOR, tokens=10, prompt_tokens=0, cached_tokens=0)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


class Judge:
    """Scores a step low from the first bad one on."""

    model_id = "prm@1"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        self.calls += 1
        ends = range(len(request.steps) - request.newest + 1, len(request.steps) + 1)
        values = [0.1 if "bad" in " ".join(request.steps[:end]) else 0.9 for end in ends]
        return Scores(values=values, tokens=1)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


class Engines:
    """The models before anything remembers what they wrote."""

    def __init__(self, *, small: Errs, large: Errs = lambda _question, _index: False) -> None:
        self.small, self.large, self.prm = Writer(Author.SMALL, small), Writer(Author.LARGE, large), Judge()

    @property
    def calls(self) -> int:
        return self.small.calls + self.large.calls + self.prm.calls

    @contextmanager
    def loaded(self, memory: Path | None = None) -> Iterator[LoadedEngines]:
        file = MemoryFile(memory) if memory else None
        writers = (self.small, self.large)
        small, large = (RememberingGenerator(each, file.steps(each.model_id) if file else None) for each in writers)
        yield LoadedEngines(
            small=small,
            large=large,
            prm=RememberingScorer(self.prm, file.scores(self.prm.model_id) if file else None),
            models=ModelIds(small="small@1", large="large@1", prm="prm@1"),
            concurrency=4,
        )
        if file:
            file.close()


def number(question: str) -> int:
    return int(question.rpartition(" ")[2])


def problems(count: int) -> ProblemSet:
    return ProblemSet(problems=[(f"Problem {each}", RIGHT) for each in range(count)], source="test")


def one_error(question: str, index: int) -> bool:
    """Err at a step that differs from problem to problem, in two problems of three."""
    return number(question) % 3 > 0 and index == number(question) % (STEPS - 1)
