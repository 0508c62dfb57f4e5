"""Scores the small model's steps with a PRM, and compares the scores with what the steps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from evaluation.metrics import area_under_curve
from evaluation.offline import IN_FLIGHT, TIMEOUT_S, Models
from evaluation.study import Judged
from recipe.problems.checker import Label, label
from recipe.problems.story import Story, problems_of
from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.engines.port import Meter, ScoringRequest
from shared.machine.state import State
from shared.policies.baselines import SmallOnly

_HALF = 0.5
"""Score above which a PRM holds a step to be right."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A PRM's scores of the small model's steps, by what the steps are."""

    scores: Mapping[Label, Sequence[float]]
    judged: Sequence[Judged] = ()
    """The steps up to the first error; later ones solve another problem."""

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """Join the scores of different problems, or of the same with different seeds."""
        return cls(
            {kind: [value for part in parts for value in part.scores[kind]] for kind in Label},
            [each for part in parts for each in part.judged],
        )

    @property
    def auc(self) -> float | None:
        """AUC of the right steps against the first errors; `None` if there are not both."""
        right, wrong = self.scores[Label.RIGHT], self.scores[Label.FIRST_ERROR]
        return area_under_curve(right, wrong) if right and wrong else None

    @property
    def missed(self) -> float:
        """Share of the first errors that the PRM holds to be right."""
        return _share_above(self.scores[Label.FIRST_ERROR])

    @property
    def doubted(self) -> float:
        """Share of the right steps that the PRM does not hold to be right."""
        return 1 - _share_above(self.scores[Label.RIGHT])

    @property
    def forgiven(self) -> float:
        """Share of the steps after a first error that the PRM holds to be right."""
        return _share_above(self.scores[Label.WRONG])


def _share_above(scores: Sequence[float]) -> float:
    """Compute the share of scores above a half; 0 if there are none."""
    return sum(score > _HALF for score in scores) / max(1, len(scores))


def score_small(models: Models, stories: Sequence[Story], sampling: Sampling, *, first: int = 0) -> Scored:
    """Have the small model solve problems alone, and score its steps; `first` is the index of the first problem."""
    return score(models, stories, models.solve(problems_of(stories), SmallOnly(), sampling=sampling), first=first)


def score(models: Models, stories: Sequence[Story], solved: Sequence[State], *, first: int = 0) -> Scored:
    """Score the steps of solutions; `first` is the index of the first problem."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        problems = list(pool.map(partial(_score, models), stories, solved))
    return Scored(
        {kind: [value for pairs in problems for value, found in pairs if found is kind] for kind in Label},
        [
            Judged(score=value, is_right=found is Label.RIGHT, problem=problem)
            for problem, pairs in enumerate(problems, first)
            for value, found in pairs
            if found is not Label.WRONG
        ],
    )


def _score(models: Models, story: Story, solved: State) -> list[tuple[float, Label]]:
    """Score the steps of a solution; return each score with what the step is."""
    assert models.prm is not None
    steps = tuple(step.text for step in solved.steps)
    if not steps:
        return []
    request = ScoringRequest(
        problem_id=solved.problem_id, question=story.question, steps=steps, newest=len(steps), timeout_s=TIMEOUT_S
    )
    scores = models.prm.score(request, Cancellation(), Meter()).values
    return list(zip(scores, label(story.question, steps), strict=True))
