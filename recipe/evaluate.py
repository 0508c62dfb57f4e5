"""Measures all policies on the bundled models: `python -m recipe.evaluate [--problems N] [--seeds N] [--served N]`.

Whole curves come from the simulation, on test problems with several seeds and on transfer problems, with both PRMs.
Then the real service solves some of the test problems with each model alone and with one setting of each policy; the
results must agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from rich.console import Console

from evaluation import comparison
from evaluation.comparison import Comparison, Comparisons
from evaluation.metrics import Baselines
from evaluation.offline import GREEDY, Models
from evaluation.online import running_service
from evaluation.report.writing import write_report
from evaluation.study import Setting, Trial
from evaluation.true_cost import Computed
from recipe.measuring import score_small
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, problems_of
from recipe.reference import load_weights
from recipe.settings import CURVES, choice, curve
from recipe.studies import Trials, study
from recipe.tables import Results, curves_table, differences_table, prms_table, summary
from shared import log
from shared.domain.options import Sampling
from shared.errors import PermanentError
from shared.policies.artefact import Artefact
from shared.policies.policy import FittedPolicy
from shared.policies.registry import POLICIES
from shared.process import reporting_errors
from shared.settings import MODELS, Settings
from stack.interrupts import reporting_interrupts
from stack.policies import read_artefacts
from stack.running import state_folder

PRMS: Final = {"prm": "main", "prm-lite": "lite"}
"""Folders of the PRMs, with their names in the summary."""

REPORT: Final = Path(".state/evaluation")
"""Folder of the report."""

SERVED_SEED: Final = 0
"""Seed with which the real service solves problems."""


class TooManyProblems(PermanentError):
    """The service accepts fewer problems in a batch; lower --served or raise TRIM_MAX_BATCH_SIZE."""

    code = "too_many_problems"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much an evaluation measures."""

    problems: int
    """Number of problems of each split."""
    seeds: int
    """Number of times that each test problem is solved by a setting."""
    served: int
    """Number of test problems that the real service solves."""


def main() -> None:
    """Parse the arguments, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m recipe.evaluate", description="Measure all policies.")
    parser.add_argument("--problems", type=int, default=500, help="problems per split (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per test problem (default: %(default)s)")
    parser.add_argument(
        "--served", type=int, default=100, help="test problems for the real service (default: %(default)s)"
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the models (default: bundled)")
    parser.add_argument("--report", type=Path, default=REPORT, help="folder of the report (default: %(default)s)")
    arguments = parser.parse_args()
    # Another stack in this folder is reported now, not after minutes.
    with reporting_interrupts("evaluate"), reporting_errors("evaluate"), state_folder():
        settings = Settings()
        served = min(arguments.served, arguments.problems)
        if served > settings.max_batch_size:
            refusal = f"The service accepts at most {settings.max_batch_size} problems in a batch"
            raise TooManyProblems(f"{refusal}; lower --served or raise TRIM_MAX_BATCH_SIZE.")
        # The simulated orchestrator logs the end of each problem.
        log.configure(settings.model_copy(update={"log_level": "warning"}), role="evaluate")
        amounts = Amounts(problems=arguments.problems, seeds=arguments.seeds, served=served)
        evaluate(settings, arguments.models, amounts, report=arguments.report)


def evaluate(settings: Settings, models: Path, amounts: Amounts, *, report: Path) -> None:
    """Measure offline, then through the service; print both, and write the report.

    Raises:
        ServiceDiffers: The results do not agree; all figures are printed.
    """
    stories = {split: list(islice(draw(split), amounts.problems)) for split in (Split.TEST, Split.TRANSFER)}
    samplings = {Split.TEST: [Sampling(seed=seed) for seed in range(amounts.seeds)], Split.TRANSFER: [Sampling(seed=0)]}
    measured: dict[Split, dict[str, Results]] = {split: {} for split in stories}
    with ExitStack() as stack:
        loaded = stack.enter_context(Models(models / "small", models / "large"))
        for prm in PRMS:
            with_prm = stack.enter_context(loaded.with_prm(models / prm))
            artefacts = artefacts_for(with_prm)
            for split, drawn in stories.items():
                trials = Trials(drawn, samplings[split], with_prm)
                results = measure(trials, split, prm, artefacts, parameters(models, prm))
                print(f"\n## {split}, {prm}\n", *curves_table(results), "", *differences_table(results), sep="\n")
                print(flush=True)
                measured[split][prm] = results
    print("\n## PRMs on test problems\n", *prms_table(measured[Split.TEST]), sep="\n", flush=True)
    studies = {name: measured[Split.TEST][prm].study for prm, name in PRMS.items()}
    page = write_report(studies, report, title="Policies on the bundled models")
    print(f"\nReport: {page}", flush=True)
    compared = compare(settings, models, stories[Split.TEST][: amounts.served], measured[Split.TEST])
    print("\n## The same on the real service\n", *comparison.table(compared), sep="\n", flush=True)
    totals = {name: summary(measured[Split.TEST][prm], measured[Split.TRANSFER][prm]) for prm, name in PRMS.items()}
    print(f"\n{json.dumps(totals)}", flush=True)
    comparison.check(compared)


def artefacts_for(models: Models) -> dict[str, Artefact]:
    """Return the bundled artefacts that were made for these models, by policy."""
    found = (each for each in read_artefacts() if each.models == models.ids)
    return {artefact.card.policy: artefact for artefact in found}


def measure(trials: Trials, split: Split, prm: str, artefacts: Mapping[str, Artefact], prices: Computed) -> Results:
    """Solve problems with all policies for which there is an artefact, or which need none."""
    policies = [name for name in CURVES if name in artefacts or not issubclass(POLICIES[name], FittedPolicy)]
    scored = {
        "greedy": score_small(trials.models, trials.stories, GREEDY),
        "sampled": score_small(trials.models, trials.stories, trials.samplings[0]),
    }
    solved = study(
        trials,
        (setting for name in policies for setting in curve(name, artefacts)),
        title=f"{split} problems, PRM {prm}",
        prices=prices,
        judged=scored["sampled"].judged,
    )
    return Results(solved, scored)


def parameters(models: Path, prm: str) -> Computed:
    """Count the parameters of the small model, the large model and a PRM: what each computes for one token."""

    def count(folder: str) -> int:
        return sum(weight.size for weight in load_weights(models / folder / "model.safetensors").values())

    return Computed(small=count("small"), prm=count(prm), large=count("large"))


def compare(settings: Settings, models: Path, stories: Sequence[Story], measured: Mapping[str, Results]) -> Comparisons:
    """Solve problems on the service with each model alone and one setting of each policy, and compare the results."""
    console = Console()
    compared: dict[str, dict[str, Comparison]] = {}
    for prm, results in measured.items():
        solved = results.study
        # The models alone need no PRM, so the service runs them once.
        alone = () if compared else (solved.small, solved.large)
        offline = {each.label: each for each in (*alone, *map(results.operating, results.served))}
        folders = {"small": models / "small", "large": models / "large", "prm": models / prm}
        with running_service(settings, folders) as service:
            console.print(f"Solving {len(stories)} test problems with {prm} at {service.api.address}")
            choices = {label: choice(label) for label in offline}
            answers = service.solve(problems_of(stories), choices, Sampling(seed=SERVED_SEED), console)

        def served(setting: Setting, seeds: int = solved.seeds) -> Sequence[Trial]:
            return setting.trials[SERVED_SEED::seeds][: len(stories)]

        baselines = Baselines(small=served(solved.small), large=served(solved.large))
        compared[prm] = {
            label: Comparison(service=trials, offline=served(offline[label]), baselines=baselines)
            for label, trials in answers.items()
        }
    return compared


if __name__ == "__main__":
    main()
