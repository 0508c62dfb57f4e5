"""Measures models on held-out problems: `python -m models.evaluate [--problems N] [--models FOLDER]`.

Thresholds are chosen on validation problems and reported on test and on transfer problems, all of them solved greedily
by the method's loop. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from models.problems.checker import first_error
from models.problems.drawing import Split, draw
from models.problems.story import Story
from models.routing import GREEDY, Models, Solution, Solver, at_once
from shared.domain.values import Role
from shared.evaluation.bootstrap import Interval, interval
from shared.evaluation.results import Baselines, Result, accuracy, area_recovered, area_under_curve, cost_to_recover

HERE = Path(__file__).parent

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
TARGET = 0.95
"""Part of the gap between the two models that is to be recovered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came out on one split."""

    baselines: Baselines
    curve: Mapping[float, Sequence[Result]]
    """By threshold."""
    checked: Sequence[Result]
    """With the exact checker in the PRM's place."""
    auc: float
    """Of the PRM's scores of the small model's steps, up to its first error in each problem."""

    def difference(self, results: Sequence[Result]) -> Interval:
        """Compute the interval of how much more accurate some results are than the large model alone, paired."""
        return interval(results, self.baselines.large, statistic=lambda a, b: accuracy(a) - accuracy(b))

    def cpt(self) -> float:
        """Compute CPT at the target, from the whole curve."""
        return cost_to_recover([self.baselines.point(results) for results in self.curve.values()], TARGET)


def measure(models: Models, split: Split, count: int) -> Measured:
    """Solve problems of a split with each model alone, at every threshold, and with the exact checker."""
    stories = list(islice(draw(split), count))
    solvers = [Solver(models=models, question=story.question, sampling=GREEDY) for story in stories]

    def solve(how: Callable[[Solver, Story], Solution]) -> list[Result]:
        solutions = at_once(lambda pair: how(*pair), list(zip(solvers, stories, strict=True)))
        return [
            Result(is_solved=solution.answer == str(story.answer), large_tokens=solution.large_tokens)
            for solution, story in zip(solutions, stories, strict=True)
        ]

    def check(solver: Solver, story: Story) -> Solution:
        return solver.solve(lambda steps: first_error(story.steps, steps) == len(steps) - 1)

    baselines = Baselines(
        small=solve(lambda solver, _: solver.solve_alone(Role.SMALL)),
        large=solve(lambda solver, _: solver.solve_alone(Role.LARGE)),
    )
    curve = {
        threshold: solve(partial(lambda solver, _, above: solver.solve_above(above), above=threshold))
        for threshold in THRESHOLDS
    }
    judged = [score for scores in at_once(_judge, list(zip(solvers, stories, strict=True))) for score in scores]
    auc = area_under_curve(
        [score for score, is_right in judged if is_right], [score for score, is_right in judged if not is_right]
    )
    return Measured(baselines=baselines, curve=curve, checked=solve(check), auc=auc)


def _judge(pair: tuple[Solver, Story]) -> list[tuple[float, bool]]:
    """Score the small model's steps up to its first error, and tell of each whether it is right."""
    solver, story = pair
    steps = solver.solve_alone(Role.SMALL).steps
    right = first_error(story.steps, steps)
    return [(solver.score(steps[:end]), end <= right) for end in range(1, min(right + 1, len(steps)) + 1)]


def cheapest(measured: Measured, is_good: Callable[[Sequence[Result]], bool]) -> float:
    """Choose the threshold that is good enough for the fewest large tokens; where none is, the highest."""
    good = [threshold for threshold, results in measured.curve.items() if is_good(results)]
    return min(good, key=lambda threshold: (measured.baselines.share(measured.curve[threshold]), threshold), default=1)


def table(measured: Measured, chosen: Mapping[str, float]) -> Iterator[str]:
    """Write the whole curve as a Markdown table."""
    rows = [
        ("small alone", measured.baselines.small),
        *((f"threshold {threshold}", results) for threshold, results in measured.curve.items()),
        ("exact checker", measured.checked),
        ("large alone", measured.baselines.large),
    ]
    marks: dict[str, str] = {}
    for why, threshold in chosen.items():
        marks[f"threshold {threshold}"] = marks.get(f"threshold {threshold}", "") + f" ({why})"
    yield "| policy | accuracy | gap recovered | large tokens | accuracy - large's, 95 % |"
    yield "|---|---|---|---|---|"
    for name, results in rows:
        point, difference = measured.baselines.point(results), measured.difference(results)
        yield (
            f"| {name}{marks.get(name, '')} | {accuracy(results):.1%} | {point.recovered:.1%} | {point.share:.1%}"
            f" | {difference.low:+.1%} to {difference.high:+.1%} |"
        )
    points = [measured.baselines.point(results) for results in measured.curve.values()]
    yield f"\nPRM AUC {measured.auc:.4f}, CPT95 {measured.cpt():.1%}, APGR {area_recovered(points):.3f}\n"


def summary(measured: Measured, parity: float, prefix: str = "") -> dict[str, Any]:
    """Sum up a split; the threshold for parity was chosen on another."""
    results = measured.curve[parity]
    difference = measured.difference(results)
    values = {
        "small_accuracy": accuracy(measured.baselines.small),
        "large_accuracy": accuracy(measured.baselines.large),
        "prm_auc": measured.auc,
        "cpt95": measured.cpt(),
        "large_share_at_parity": measured.baselines.share(results),
        "accuracy_at_parity": accuracy(results),
        "difference_at_parity_low": difference.low,
        "difference_at_parity_high": difference.high,
    }
    return {f"{prefix}{name}": round(value, 4) for name, value in values.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description="Measure models.")
    parser.add_argument("--problems", type=int, default=500, help="problems of each split (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=HERE, help="folder of small, large and prm (default: bundled)")
    arguments = parser.parse_args()
    with Models(*(arguments.models / name for name in ("small", "large", "prm"))) as models:
        print(f"Measuring on {arguments.problems} problems of each split, greedily.", flush=True)
        validation = measure(models, Split.VALIDATION, arguments.problems)
        chosen = {
            "95 % of the gap": cheapest(validation, lambda it: validation.baselines.point(it).recovered >= TARGET),
            "parity": cheapest(validation, lambda it: validation.difference(it).high >= 0),
        }
        totals: dict[str, Any] = {}
        for split, prefix in ((Split.VALIDATION, None), (Split.TEST, ""), (Split.TRANSFER, "transfer_")):
            measured = validation if split is Split.VALIDATION else measure(models, split, arguments.problems)
            print(f"\n## {split}\n", *table(measured, chosen), sep="\n", flush=True)
            if prefix is not None:
                totals |= summary(measured, chosen["parity"], prefix)
    print(json.dumps({**totals, "threshold_at_parity": chosen["parity"]}))


if __name__ == "__main__":
    main()
