"""Samples training data of the PRMs.

There are two kinds. In the first the large model corrects the small model's trajectories, and samples end at the first
error. In the second either model writes each step, and samples go on after errors to the end of the solution.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from evaluation.offline import Models
from recipe.exact_checker import ExactChecker
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, parse, problems_of
from shared.domain.options import Sampling
from shared.machine.state import State
from shared.policies.baselines import Random, SmallOnly
from shared.policies.threshold import Threshold

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """Steps of one problem: up to the first error if there is one, or whole."""

    question: str
    steps: tuple[str, ...]
    right: int
    """Number of right steps at the beginning."""

    def by_step(self) -> Iterator[bool]:
        """Yield for each step whether it is right."""
        for index in range(len(self.steps)):
            yield index < self.right


CHECKED = Threshold(threshold=0.5)
"""With an exact checker as scorer, the large model rewrites each first wrong step."""


EITHER = Random(p=0.5)
"""Each step is written by either model with probability 1/2."""

Sampler = Callable[[Models, Sequence[Story], Sampling], list[Sample]]
"""Has models solve problems, and samples the solutions."""


def corrected(models: Models, stories: Sequence[Story], sampling: Sampling) -> list[Sample]:
    """Sample each wrong draft after right steps, with these, and the right steps of each solution."""
    solved = models.solve(problems_of(stories), CHECKED, scorer=ExactChecker(), sampling=sampling)
    return [sample for story, state in zip(stories, solved, strict=True) for sample in _trajectories(story, state)]


def mixed(models: Models, stories: Sequence[Story], sampling: Sampling) -> list[Sample]:
    """Sample whole solutions by both models."""
    solved = models.solve(problems_of(stories), EITHER, sampling=sampling)
    texts = [tuple(step.text for step in state.steps) for state in solved]
    return [
        Sample(story.question, steps, first_error(story.steps, steps))
        for story, steps in zip(stories, texts, strict=True)
    ]


def _trajectories(story: Story, state: State) -> list[Sample]:
    """Sample a problem that was solved with an exact checker.

    Returns:
        The steps up to each wrong draft, and the trajectory up to the large model's first error.
    """
    texts = tuple(step.text for step in state.steps)
    tried = [(*texts[: record.step], record.draft.text) for record in state.decisions if record.draft is not None]
    wrong = [Sample(story.question, steps, len(steps) - 1) for steps in tried if _is_first_error(story, steps)]
    right = first_error(story.steps, texts)
    return [*wrong, Sample(story.question, texts[: right + 1], right)]


def small_alone(story: Story, state: State) -> Sample:
    """Sample a problem as the small model solved it alone, up to its first error."""
    steps = tuple(step.text for step in state.steps)
    right = first_error(story.steps, steps)
    return Sample(story.question, steps[: right + 1], right)


def _is_first_error(story: Story, steps: tuple[str, ...]) -> bool:
    return first_error(story.steps, steps) == len(steps) - 1


def sample_training(
    models: Models, path: Path, sampler: Sampler, *, seed: int, plan: Sequence[tuple[Sampling, int]]
) -> None:
    """Write samples of training problems; skip those that an earlier run wrote.

    Args:
        models: The small and the large model.
        path: File to write, with one JSON array per line.
        sampler: Samples the problems of a line.
        seed: Seed of the problems.
        plan: How to draw tokens, and for how many problems.
    """
    done = _whole_lines(path)
    chunks = [(sampling, size) for sampling, count in plan for size in _sizes(count)]
    with path.open("a", encoding="utf-8") as file:
        for number, (sampling, size) in enumerate(chunks):
            if number < done:
                continue
            stories = list(islice(draw(Split.TRAIN, seed=seed + number), size))
            rows = [asdict(sample) for sample in sampler(models, stories, sampling)]
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
    rows = [row for line in path.read_text(encoding="utf-8").splitlines() for row in json.loads(line)]
    return [Sample(row["question"], tuple(row["steps"]), row["right"]) for row in rows]


def held_out(models: Models, count: int, sampling: Sampling) -> list[Sample]:
    """Sample validation problems as the small model solves them alone."""
    stories = list(islice(draw(Split.VALIDATION), count))
    solved = models.solve(problems_of(stories), SmallOnly(), sampling=sampling)
    return [small_alone(story, state) for story, state in zip(stories, solved, strict=True)]


def expected_steps(sample: Sample) -> tuple[str, ...]:
    """Return the whole solution of a sample's problem."""
    return parse(sample.question).steps
