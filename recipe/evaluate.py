"""Measures models on held-out problems: `python -m recipe.evaluate [--problems N] [--models FOLDER]`.

Thresholds are chosen for each PRM on validation problems and reported on test and transfer problems, all solved
greedily by the simulated service. Then the real service solves the test and transfer problems with small-only,
large-only, and the threshold for parity of each PRM; the figures must agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation import comparison
from evaluation.comparison import Comparison, Comparisons
from evaluation.metrics import accuracy
from evaluation.offline import Models
from evaluation.online import running_service
from evaluation.true_cost import Computed
from recipe.measuring import TARGET, Measured, cheapest, measure
from recipe.problems.drawing import Split
from recipe.problems.story import problems_of
from recipe.reference import load_weights
from shared import log
from shared.errors import PermanentError
from shared.process import reporting_errors
from shared.settings import Settings
from stack.interrupts import reporting_interrupts
from stack.running import state_folder

BUNDLED = Path(__file__).parent.parent / "models"

PRMS = {"prm": ""}
"""Folders of the PRMs, with the prefix of their figures' names."""

REPORTED = {Split.TEST: "", Split.TRANSFER: "transfer_"}
"""Splits whose figures are reported, with the prefix of their names."""

Prices = Mapping[str, Computed]
"""Number of parameters of each model, by PRM: what it computes for one token."""


Chosen = Mapping[str, Mapping[str, float]]
"""Chosen thresholds, by PRM and by what they are good for."""


class TooManyProblems(PermanentError):
    """The service accepts fewer problems in a batch; lower --problems or raise TRIM_MAX_BATCH_SIZE."""

    code = "too_many_problems"


def table(measured: Measured, chosen: Mapping[str, float], prices: Computed) -> Iterator[str]:
    """Yield the lines of a Markdown table of the whole curve."""
    rows = [
        ("small alone", measured.small),
        *((f"threshold {threshold}", results) for threshold, results in measured.curve.items()),
        ("exact checker", measured.checked),
        ("large alone", measured.large),
    ]
    marks: dict[str, str] = {}
    for why, threshold in chosen.items():
        marks[f"threshold {threshold}"] = marks.get(f"threshold {threshold}", "") + f" ({why})"
    yield "| policy | accuracy | gap recovered | large tokens | true cost | accuracy - large's, 95 % |"
    yield "|---|---|---|---|---|---|"
    for name, results in rows:
        point, difference = measured.baselines.point(results), measured.difference(results)
        yield (
            f"| {name}{marks.get(name, '')} | {accuracy(results):.1%} | {point.recovered:.1%} | {point.share:.1%}"
            f" | {measured.true_share(results, prices).total:.1%} | {difference.low:+.1%} to {difference.high:+.1%} |"
        )
    yield f"\nCPT95 {measured.cpt():.1%}, APGR {measured.apgr():.3f}\n"


def steps_table(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield the lines of a Markdown table of how each PRM judges the small model's steps."""
    yield "| PRM | AUC, greedy | AUC, sampled | first errors missed | right steps doubted | later steps forgiven |"
    yield "|---|---|---|---|---|---|"
    for name, each in measured.items():
        sampled = each.sampled
        yield (
            f"| {name} | {each.greedy.auc:.4f} | {sampled.auc:.4f} | {sampled.missed:.1%} | {sampled.doubted:.1%}"
            f" | {sampled.forgiven:.1%} |"
        )


def cost_table(measured: Mapping[str, Measured], chosen: Chosen, prices: Prices) -> Iterator[str]:
    """Yield the lines of a Markdown table of the true cost by model, as shares of that of the large model alone."""
    yield "| policy | accuracy | large tokens | true cost | small model | PRM | large model |"
    yield "|---|---|---|---|---|---|---|"
    any_prm, *_ = measured
    alone = measured[any_prm]
    rows = [(any_prm, "small alone", alone.small)]
    for prm, each in measured.items():
        rows += [(prm, f"{prm}, threshold {at}", each.curve[at]) for at in dict.fromkeys(chosen[prm].values())]
    rows += [(any_prm, "exact checker, free", alone.checked), (any_prm, "large alone", alone.large)]
    for prm, name, results in rows:
        cost = alone.true_share(results, prices[prm])
        yield (
            f"| {name} | {accuracy(results):.1%} | {alone.baselines.share(results):.1%} | {cost.total:.1%}"
            f" | {cost.small:.1%} | {cost.prm:.1%} | {cost.large:.1%} |"
        )


def summary(measured: Measured, parity: float, prices: Computed, prefix: str = "") -> dict[str, Any]:
    """Summarise a PRM on a split; the threshold for parity was chosen on another split."""
    results = measured.curve[parity]
    difference = measured.difference(results)
    values = {
        "small_accuracy": accuracy(measured.small),
        "large_accuracy": accuracy(measured.large),
        "prm_auc": measured.greedy.auc,
        "prm_auc_sampled": measured.sampled.auc,
        "cpt95": measured.cpt(),
        "large_share_at_parity": measured.baselines.share(results),
        "true_share_at_parity": measured.true_share(results, prices).total,
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
    totals: dict[str, Any] = {}
    reported: dict[Split, dict[str, Measured]] = {}
    with ExitStack() as stack:
        any_prm, *others = PRMS
        loaded = stack.enter_context(Models(models / "small", models / "large", models / any_prm))
        prms = {any_prm: loaded} | {name: stack.enter_context(loaded.with_prm(models / name)) for name in others}
        prices = {name: parameters(models, name) for name in PRMS}
        print(f"Measuring {count} problems per split.", flush=True)
        validation = measure(prms, Split.VALIDATION, count)
        chosen = {name: choose(measured) for name, measured in validation.items()}
        print_split(Split.VALIDATION, validation, chosen, prices)
        for split, split_prefix in REPORTED.items():
            reported[split] = measured = measure(prms, split, count)
            print_split(split, measured, chosen, prices)
            for name, prefix in PRMS.items():
                parity = chosen[name]["parity"]
                totals |= summary(measured[name], parity, prices[name], f"{split_prefix}{prefix}")
    totals |= {f"{prefix}threshold_at_parity": chosen[name]["parity"] for name, prefix in PRMS.items()}
    compared = compare(settings, models, reported, chosen)
    print("\n## The same on the real service\n", *comparison.table(compared), sep="\n", flush=True)
    for split, prefix in REPORTED.items():
        small, large, routed, *_ = compared[split].values()
        totals |= comparison.summary(small=small, large=large, parity=routed, prefix=prefix)
    print(f"\n{json.dumps(totals)}", flush=True)
    comparison.check(compared)


def parameters(models: Path, prm: str) -> Computed:
    """Count the parameters of the small model, the large model and a PRM."""

    def count(folder: str) -> int:
        return sum(weight.size for weight in load_weights(models / folder / "model.safetensors").values())

    return Computed(small=count("small"), prm=count(prm), large=count("large"))


def choose(validation: Measured) -> dict[str, float]:
    """Choose the thresholds of a PRM, by what they are good for."""
    return {
        "95 % of the gap": cheapest(validation, lambda it: validation.baselines.point(it).recovered >= TARGET),
        "parity": cheapest(validation, lambda it: validation.difference(it).high >= 0),
    }


def print_split(split: Split, measured: Mapping[str, Measured], chosen: Chosen, prices: Prices) -> None:
    """Print what was measured on a split."""
    for name, each in measured.items():
        print(f"\n## {split}, {name}\n", *table(each, chosen[name], prices[name]), sep="\n")
    print(
        f"\n## {split}, both\n", *steps_table(measured), "", *cost_table(measured, chosen, prices), sep="\n", flush=True
    )


def compare(
    settings: Settings, models: Path, reported: Mapping[Split, Mapping[str, Measured]], chosen: Chosen
) -> Comparisons:
    """Solve the problems of splits on the service; compare each policy with the offline results.

    The policies are the two models alone, and each PRM at its threshold for parity.
    """
    console = Console()
    compared: dict[str, dict[str, Comparison]] = {split: {} for split in reported}
    policies: dict[str, dict[str, Any]] = {"small alone": {"name": "small-only"}, "large alone": {"name": "large-only"}}
    for prm in PRMS:
        parity = chosen[prm]["parity"]
        routed = f"{prm}, threshold {parity}"
        policies[routed] = {"name": "threshold", "parameters": {"threshold": parity}}
        folders = {"small": models / "small", "large": models / "large", "prm": models / prm}
        with running_service(settings, folders) as service:
            for split, measured in reported.items():
                each = measured[prm]
                console.print(f"Solving {len(each.stories)} {split} problems at {service.api.address}")
                solved = service.solve(problems_of(each.stories), policies, console)
                offline = {"small alone": each.small, "large alone": each.large, routed: each.curve[parity]}
                compared[split] |= {
                    name: Comparison(service=results, offline=offline[name], baselines=each.baselines)
                    for name, results in solved.items()
                }
        policies = {}  # The models alone need no PRM, so they run once.
    return compared


if __name__ == "__main__":
    main()
