"""Solves held-out problems with every policy, offline, and scores the small model's steps with each PRM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from evaluation.bootstrap import Interval, interval
from evaluation.comparison import Answered
from evaluation.metrics import Baselines, Point, Result, accuracy, area_recovered, area_under_curve, cost_to_recover
from evaluation.offline import IN_FLIGHT, TIMEOUT_S, Models
from evaluation.true_cost import Computed, mean_cost
from recipe.exact_checker import ExactChecker
from recipe.problems.checker import Label, label
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, problems_of
from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.engines.port import Meter, Scorer, ScoringRequest
from shared.machine.state import State
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.policy import Policy
from shared.policies.threshold import Threshold

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)

TARGET = 0.95
"""Part of the gap between the two models to recover."""

SAMPLING = Sampling()
"""How the method draws tokens."""

_HALF = 0.5
"""Score above which a PRM holds a step to be right."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A PRM's scores of the small model's steps, by what the steps are."""

    scores: Mapping[Label, Sequence[float]]

    @property
    def auc(self) -> float:
        """AUC of the right steps against the first errors."""
        return area_under_curve(self.scores[Label.RIGHT], self.scores[Label.FIRST_ERROR])

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results of one PRM on one split."""

    stories: Sequence[Story]
    small: Sequence[Answered]
    large: Sequence[Answered]
    curve: Mapping[float, Sequence[Answered]]
    """By threshold."""
    checked: Sequence[Answered]
    """Results with the exact checker instead of the PRM."""
    greedy: Scored
    """Scores of the steps that the small model writes alone."""
    sampled: Scored
    """The same with the method's sampling."""

    @property
    def baselines(self) -> Baselines:
        """Results of small-only and large-only."""
        return Baselines(small=self.small, large=self.large)

    @property
    def points(self) -> list[Point]:
        """Points of the curve on the plane of cost and quality."""
        return [self.baselines.point(results) for results in self.curve.values()]

    def difference(self, results: Sequence[Result]) -> Interval:
        """Compute the paired interval of the accuracy of results minus that of large-only."""
        return interval(results, self.baselines.large, statistic=lambda a, b: accuracy(a) - accuracy(b))

    def true_share(self, results: Sequence[Answered], prices: Computed) -> Computed:
        """Compute the true cost of results by model, as a share of that of large-only.

        Args:
            results: The results.
            prices: Price of one token of each model.
        """
        alone = mean_cost([each.computed for each in self.large], prices).total
        shares = Computed(small=prices.small / alone, prm=prices.prm / alone, large=prices.large / alone)
        return mean_cost([each.computed for each in results], shares)

    def cpt(self) -> float:
        """Compute CPT at the target, from the whole curve."""
        return cost_to_recover(self.points, TARGET)

    def apgr(self) -> float:
        """Compute APGR, from the whole curve."""
        return area_recovered(self.points)


def measure(prms: Mapping[str, Models], split: Split, count: int) -> dict[str, Measured]:
    """Solve problems of a split with each model alone, with every PRM at every threshold, and with the exact checker.

    Args:
        prms: The same small and large model with each PRM, by its name.
        split: The split.
        count: Number of problems.
    """
    stories = list(islice(draw(split), count))
    problems = problems_of(stories)
    any_prm, *_ = prms.values()

    def solve(models: Models, policy: Policy, *, scorer: Scorer | None = None) -> list[Answered]:
        return [answered(state) for state in models.solve(problems, policy, scorer=scorer)]

    greedy = any_prm.solve(problems, SmallOnly())
    sampled = any_prm.solve(problems, SmallOnly(), sampling=SAMPLING)
    large = solve(any_prm, LargeOnly())
    checked = solve(any_prm, Threshold(threshold=0.5), scorer=ExactChecker())
    return {
        name: Measured(
            stories=stories,
            small=[answered(state) for state in greedy],
            large=large,
            curve={threshold: solve(models, Threshold(threshold=threshold)) for threshold in THRESHOLDS},
            checked=checked,
            greedy=score(models, stories, greedy),
            sampled=score(models, stories, sampled),
        )
        for name, models in prms.items()
    }


def answered(state: State) -> Answered:
    """Return the result of a problem."""
    return Answered.of(verdict=state.verdict, answer=state.answer, ledger=state.ledger)


def score(models: Models, stories: Sequence[Story], solved: Sequence[State]) -> Scored:
    """Score the steps of solutions."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        pairs = [pair for pairs in pool.map(partial(_score, models), stories, solved) for pair in pairs]
    return Scored({kind: [value for value, found in pairs if found is kind] for kind in Label})


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


def cheapest(measured: Measured, is_good: Callable[[Sequence[Result]], bool]) -> float:
    """Choose the good threshold with the fewest large tokens; the highest threshold if none is good."""
    good = [threshold for threshold, results in measured.curve.items() if is_good(results)]
    return min(
        good,
        key=lambda threshold: (measured.baselines.share(measured.curve[threshold]), threshold),
        default=max(measured.curve),
    )
