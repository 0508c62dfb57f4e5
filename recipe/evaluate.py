"""Measures models on held-out problems: `python -m recipe.evaluate [--problems N] [--models FOLDER]`.

Thresholds are chosen on validation problems and reported on test and transfer problems, all solved greedily by the
simulated service. Then the real service solves the test and transfer problems with small-only, large-only, and the
threshold for parity; the figures must agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation import comparison
from evaluation.bootstrap import Interval, interval
from evaluation.comparison import Answered, Comparison, Comparisons
from evaluation.metrics import Baselines, Result, accuracy, area_recovered, area_under_curve, cost_to_recover
from evaluation.offline import IN_FLIGHT, TIMEOUT_S, Models
from evaluation.online import running_service
from recipe.exact_checker import ExactChecker
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, problems_of
from shared import log
from shared.cancellation import Cancellation
from shared.domain.roles import WorkerRole
from shared.domain.verdict import Verdict
from shared.engines.port import Meter, Scorer, ScoringRequest
from shared.errors import PermanentError
from shared.machine.state import State
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.policy import Policy
from shared.policies.threshold import Threshold
from shared.process import reporting_errors
from shared.settings import Settings
from stack.interrupts import reporting_interrupts
from stack.running import state_folder

BUNDLED = Path(__file__).parent.parent / "models"

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
TARGET = 0.95
"""Part of the gap between the two models to recover."""

REPORTED = {Split.TEST: "", Split.TRANSFER: "transfer_"}
"""Splits whose figures are reported, with the prefix of their names."""


class TooManyProblems(PermanentError):
    """The service accepts fewer problems in a batch; lower --problems or raise TRIM_MAX_BATCH_SIZE."""

    code = "too_many_problems"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results on one split."""

    stories: Sequence[Story]
    small: Sequence[Answered]
    large: Sequence[Answered]
    curve: Mapping[float, Sequence[Answered]]
    """By threshold."""
    checked: Sequence[Result]
    """Results with the exact checker instead of the PRM."""
    auc: float
    """AUC of the PRM's scores of the small model's steps, up to the first error of each problem."""

    @property
    def baselines(self) -> Baselines:
        """Results of small-only and large-only."""
        return Baselines(small=self.small, large=self.large)

    def difference(self, results: Sequence[Result]) -> Interval:
        """Compute the paired interval of the accuracy of results minus that of large-only."""
        return interval(results, self.baselines.large, statistic=lambda a, b: accuracy(a) - accuracy(b))

    def cpt(self) -> float:
        """Compute CPT at the target, from the whole curve."""
        return cost_to_recover([self.baselines.point(results) for results in self.curve.values()], TARGET)


def measure(models: Models, split: Split, count: int) -> Measured:
    """Solve problems of a split with each model alone, at every threshold, and with the exact checker."""
    stories = list(islice(draw(split), count))
    problems = problems_of(stories)

    def solve(policy: Policy, *, scorer: Scorer | None = None) -> list[Answered]:
        return [answered(state) for state in models.solve(problems, policy, scorer=scorer)]

    small = models.solve(problems, SmallOnly())
    large = solve(LargeOnly())
    curve = {threshold: solve(Threshold(threshold=threshold)) for threshold in THRESHOLDS}
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        judged = [pair for pairs in pool.map(partial(_judge, models), stories, small) for pair in pairs]
    auc = area_under_curve(
        [score for score, is_right in judged if is_right], [score for score, is_right in judged if not is_right]
    )
    return Measured(
        stories=stories,
        small=[answered(state) for state in small],
        large=large,
        curve=curve,
        checked=solve(Threshold(threshold=0.5), scorer=ExactChecker()),
        auc=auc,
    )


def answered(state: State) -> Answered:
    """Return the result of a problem."""
    is_solved = state.verdict is Verdict.CORRECT
    return Answered(is_solved=is_solved, large_tokens=state.ledger.large_out, answer=state.answer)


def _judge(models: Models, story: Story, small: State) -> list[tuple[float, bool]]:
    """Score the small model's steps up to its first error; return each score, and whether the step is right."""
    assert models.prm is not None
    steps = tuple(step.text for step in small.steps)
    right = first_error(story.steps, steps)
    steps = steps[: right + 1]
    if not steps:
        return []
    request = ScoringRequest(
        problem_id=small.problem_id, question=story.question, steps=steps, newest=len(steps), timeout_s=TIMEOUT_S
    )
    scores = models.prm.score(request, Cancellation(), Meter()).values
    return [(score, end <= right) for end, score in enumerate(scores, start=1)]


def cheapest(measured: Measured, is_good: Callable[[Sequence[Result]], bool]) -> float:
    """Choose the good threshold with the fewest large tokens; the highest threshold if none is good."""
    good = [threshold for threshold, results in measured.curve.items() if is_good(results)]
    return min(
        good,
        key=lambda threshold: (measured.baselines.share(measured.curve[threshold]), threshold),
        default=max(measured.curve),
    )


def table(measured: Measured, chosen: Mapping[str, float]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the whole curve."""
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
    """Summarise a split; the threshold for parity was chosen on another split."""
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
    """Parse the arguments, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m recipe.evaluate", description="Measure models.")
    parser.add_argument("--problems", type=int, default=500, help="problems per split (default: %(default)s)")
    parser.add_argument(
        "--models", type=Path, default=BUNDLED, help="folder of small, large and prm (default: bundled)"
    )
    arguments = parser.parse_args()
    # Another stack in this folder is reported now, not after minutes.
    with reporting_interrupts("evaluate-models"), reporting_errors("evaluate-models"), state_folder():
        settings = Settings()
        # The simulated orchestrator logs the end of each problem.
        log.configure(settings.model_copy(update={"log_level": "warning"}), role="evaluate-models")
        evaluate(settings, arguments.models, arguments.problems)


def evaluate(settings: Settings, models: Path, count: int) -> None:
    """Measure offline, then through the service, and print both.

    Raises:
        TooManyProblems: The service accepts fewer problems in a batch.
        ServiceDiffers: The figures do not agree; all of them are printed.
    """
    if count > settings.max_batch_size:
        refusal = f"The service accepts at most {settings.max_batch_size} problems in a batch"
        raise TooManyProblems(f"{refusal}; lower --problems or raise TRIM_MAX_BATCH_SIZE.")
    folders = {role.value: models / role for role in WorkerRole}
    totals: dict[str, Any] = {}
    reported: dict[Split, Measured] = {}
    with Models(**folders) as loaded:
        print(f"Measuring {count} problems per split, greedily.", flush=True)
        validation = measure(loaded, Split.VALIDATION, count)
        chosen = {
            "95 % of the gap": cheapest(validation, lambda it: validation.baselines.point(it).recovered >= TARGET),
            "parity": cheapest(validation, lambda it: validation.difference(it).high >= 0),
        }
        parity = chosen["parity"]
        print(f"\n## {Split.VALIDATION}\n", *table(validation, chosen), sep="\n", flush=True)
        for split, prefix in REPORTED.items():
            reported[split] = measured = measure(loaded, split, count)
            print(f"\n## {split}\n", *table(measured, chosen), sep="\n", flush=True)
            totals |= summary(measured, parity, prefix)
    totals["threshold_at_parity"] = parity
    compared = compare(settings, folders, reported, parity)
    print("\n## The same on the real service\n", *comparison.table(compared), sep="\n", flush=True)
    for split, prefix in REPORTED.items():
        small, large, routed = compared[split].values()
        totals |= comparison.summary(small=small, large=large, parity=routed, prefix=prefix)
    print(f"\n{json.dumps(totals)}", flush=True)
    comparison.check(compared)


def compare(
    settings: Settings, folders: Mapping[str, Path], reported: Mapping[Split, Measured], parity: float
) -> Comparisons:
    """Solve the problems of splits on the service with three policies; compare each with the offline results."""
    at_parity = f"threshold {parity}"
    policies: dict[str, dict[str, Any]] = {
        "small alone": {"name": "small-only"},
        "large alone": {"name": "large-only"},
        at_parity: {"name": "threshold", "parameters": {"threshold": parity}},
    }
    console = Console()
    compared: dict[str, dict[str, Comparison]] = {}
    with running_service(settings, folders) as service:
        for split, measured in reported.items():
            console.print(f"Solving {len(measured.stories)} {split} problems at {service.api.address}")
            solved = service.solve(problems_of(measured.stories), policies, console)
            offline = {"small alone": measured.small, "large alone": measured.large, at_parity: measured.curve[parity]}
            compared[split] = {
                name: Comparison(service=solved[name], offline=offline[name], baselines=measured.baselines)
                for name in policies
            }
    return compared


if __name__ == "__main__":
    main()
