"""Samples training data of the PRM: the small model's drafts in trajectories that the large model corrects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from evaluation.offline import GREEDY, Models, Solver, at_once
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, parse
from shared.domain.options import Sampling
from shared.domain.roles import Author

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """Steps of one problem up to the first error, if there is one."""

    question: str
    steps: tuple[str, ...]
    right: int
    """Number of right steps at the beginning: all, or all but the last."""

    def by_step(self) -> Iterator[bool]:
        """Yield for each step whether it is right."""
        for index in range(len(self.steps)):
            yield index < self.right


def trajectories(story: Story, solver: Solver) -> list[Sample]:
    """Sample one problem: the large model replaces each wrong draft of the small model.

    Returns:
        The steps up to each wrong draft, and the resulting trajectory up to the large model's first error.
    """
    expected, found = story.steps, list[Sample]()

    def is_wrong(steps: tuple[str, ...]) -> bool:
        right = first_error(expected, steps)
        if right == len(steps) - 1:
            found.append(Sample(story.question, steps, right))
        return right == len(steps) - 1

    steps = solver.solve(is_wrong).steps
    right = first_error(expected, steps)
    return [*found, Sample(story.question, steps[: right + 1], right)]


def small_alone(story: Story, solver: Solver) -> Sample:
    """Sample one problem as the small model solves it alone, up to its first error."""
    steps = solver.solve_alone(Author.SMALL).steps
    right = first_error(story.steps, steps)
    return Sample(story.question, steps[: right + 1], right)


def sample_training(models: Models, path: Path, *, seed: int, plan: Sequence[tuple[Sampling, int]]) -> None:
    """Write samples of training problems; skip those that an earlier run wrote.

    Args:
        models: The small and the large model.
        path: File to write, with one JSON array per line.
        seed: Seed of the problems.
        plan: How to draw tokens, and for how many problems.
    """
    done = _whole_lines(path)
    chunks = [(sampling, size) for sampling, count in plan for size in _sizes(count)]
    with path.open("a") as file:
        for number, (sampling, size) in enumerate(chunks):
            if number < done:
                continue
            stories = list(islice(draw(Split.TRAIN, seed=seed + number), size))
            solvers = [Solver(models=models, question=story.question, sampling=sampling) for story in stories]
            found = at_once(lambda pair: trajectories(*pair), zip(stories, solvers, strict=True))
            rows = [asdict(sample) for samples in found for sample in samples]
            file.write(json.dumps(rows) + "\n")
            file.flush()
            wrong = sum(row["right"] < len(row["steps"]) for row in rows)
            print(f"samples {number + 1}/{len(chunks)}: {size} problems, {wrong} first errors", flush=True)


def _whole_lines(path: Path) -> int:
    """Count the complete lines of a file, if it exists, and truncate an incomplete last line."""
    if not path.exists():
        return 0
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return whole.count(b"\n")


def _sizes(count: int) -> list[int]:
    return [_CHUNK] * (count // _CHUNK) + ([count % _CHUNK] if count % _CHUNK else [])


def read(path: Path) -> list[Sample]:
    """Read the file of `sample_training`."""
    rows = [row for line in path.read_text().splitlines() for row in json.loads(line)]
    return [Sample(row["question"], tuple(row["steps"]), row["right"]) for row in rows]


def held_out(models: Models, count: int) -> list[Sample]:
    """Sample validation problems as the small model solves them alone, greedily."""
    stories = list(islice(draw(Split.VALIDATION), count))
    return list(
        at_once(
            lambda story: small_alone(story, Solver(models=models, question=story.question, sampling=GREEDY)), stories
        )
    )


def expected_steps(sample: Sample) -> tuple[str, ...]:
    """Return the whole solution of a sample's problem."""
    return parse(sample.question).steps
