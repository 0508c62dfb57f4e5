"""Measures all policies on the bundled models: `python -m recipe.evaluate [--help]`.

Whole curves come from the simulation, on test problems with several seeds and on transfer problems, with both PRMs.
Then the real service solves some of the test problems with each model alone and with one setting of each policy; the
results must agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

from rich.console import Console

from evaluation import comparison
from evaluation.comparison import Comparison, Comparisons
from evaluation.metrics import Baselines
from evaluation.online import running_service
from evaluation.report.writing import write_report
from evaluation.study import Setting, Trial
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, problems_of
from recipe.settings import CURVES, choice
from recipe.shards import SPLITS, Work, measure
from recipe.tables import Results, curves_table, differences_table, prms_table, summary
from shared import log
from shared.domain.options import Sampling
from shared.errors import PermanentError
from shared.process import reporting_errors
from shared.settings import MODELS, Settings
from stack.interrupts import reporting_interrupts
from stack.state import state_folder
from stack.whole_files import CannotWrite

PRMS: Final = {"prm": "main", "prm-lite": "lite"}
"""Folders of the PRMs, with their names in the summary."""

REPORT: Final = Path(".state/evaluation")
"""Folder of the report."""

SERVED_SEED: Final = 0
"""Seed with which the real service solves problems."""


class TooManyProblems(PermanentError):
    """The service accepts fewer problems in a batch; lower --served or raise TRIM_MAX_BATCH_SIZE."""

    code = "too_many_problems"


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> None:
    """Parse the arguments, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m recipe.evaluate", description="Measure all policies.")
    parser.add_argument("--problems", type=positive, default=500, help="problems per split (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="seeds per test problem (default: %(default)s)")
    parser.add_argument(
        "--served", type=positive, default=100, help="test problems for the real service (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=positive, default=os.cpu_count() or 1, help="processes that measure (default: one per core)"
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
        work = Work(
            models=arguments.models,
            prms=tuple(PRMS),
            policies=tuple(CURVES),
            problems=arguments.problems,
            seeds=arguments.seeds,
        )
        evaluate(settings, work, served=served, processes=arguments.processes, report=arguments.report)


def evaluate(settings: Settings, work: Work, *, served: int, processes: int, report: Path) -> None:
    """Measure offline, then through the service; print both, and write the report.

    Args:
        settings: Settings of the service.
        work: What to measure.
        served: Number of test problems that the service solves.
        processes: Number of processes that measure offline.
        report: Folder of the report.

    Raises:
        CannotWrite: The report cannot be written.
        ServiceDiffers: The results do not agree; all figures are printed.
    """
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"The report cannot be written to {report} ({error.strerror}); name another folder."
        ) from None
    print(f"Solving {work.problems} test problems {work.seeds} times and {work.problems} transfer problems", flush=True)
    figures: dict[Split, dict[str, Results]] = {split: {} for split in SPLITS}
    with closing(measure(work, processes)) as parts:
        for prm, split, results in parts:
            print(f"\n## {split}, {prm}\n", *curves_table(results), "", *differences_table(results), sep="\n")
            print(flush=True)
            figures[split][prm] = results
    print("\n## PRMs on test problems\n", *prms_table(figures[Split.TEST]), sep="\n", flush=True)
    studies = {name: figures[Split.TEST][prm].study for prm, name in PRMS.items()}
    page = write_report(studies, report, title="Policies on the bundled models")
    print(f"\nReport: {page}", flush=True)
    stories = list(islice(draw(Split.TEST), served))
    compared = compare(settings, work.models, stories, figures[Split.TEST])
    print("\n## The same on the real service\n", *comparison.table(compared), sep="\n", flush=True)
    totals = {name: summary(figures[Split.TEST][prm], figures[Split.TRANSFER][prm]) for prm, name in PRMS.items()}
    print(f"\n{json.dumps(totals)}", flush=True)
    comparison.check(compared)


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
