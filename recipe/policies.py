"""Fits the policies that ship with the bundled models: `python -m recipe.policies [--problems N] [--into FOLDER]`.

The small model solves validation problems, each step going to the large model with probability 1/2, as the method
samples. The exact checker labels the steps, so the fit needs nothing but the models. Other validation problems measure
the result, which goes into the artefact's card.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from evaluation.comparison import Answered
from evaluation.metrics import Baselines, accuracy
from evaluation.offline import TIMEOUT_S, Models
from recipe.measuring import answered
from recipe.problems.checker import first_error
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, parse, problems_of
from shared import log
from shared.cancellation import Cancellation
from shared.domain.decisions import Action
from shared.domain.options import Sampling, Wrappers
from shared.engines.port import Meter, ScoringRequest
from shared.machine.state import State
from shared.policies.artefact import Artefact
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.policy import Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from shared.settings import MODELS, Settings
from training import pomdp
from training.traces import Trace

PRMS: Final = ("prm",)
"""Folders of the PRMs to fit policies for."""

EXPLORING: Final = Wrappers(epsilon=1.0)
"""Each step is written by either model with probability 1/2, whatever its score."""

HELD_OUT: Final = 300
"""Number of problems that measure the result."""

_MEASURED_SEED: Final = 1
"""Seed of the problems that measure the result; those of the fit have another one."""


def fit_pomdp(models: Models, stories: Sequence[Story], *, command: str) -> Artefact:
    """Fit the policy `pomdp` to how the models solve problems.

    Args:
        models: The models, with a PRM.
        stories: The problems of the fit.
        command: The command that fits it, for the card.
    """
    solved = models.solve(problems_of(stories), Threshold(threshold=0.5), sampling=Sampling(seed=0), wrappers=EXPLORING)
    traces = [trace for state in solved if (trace := trace_of(models, state)) is not None]
    rewrites = [is_right for state in solved for is_right in rewrites_of(state)]
    return pomdp.fit(
        traces,
        rewrites=rewrites,
        models={**asdict(models.ids), "prm_format": "embedded"},
        data={"problems": f"bundled, split {Split.VALIDATION}", "sampling": asdict(Sampling(seed=0))},
        metrics={},
        created_at=datetime.now(UTC).replace(microsecond=0),
        command=command,
    )


def trace_of(models: Models, state: State) -> Trace | None:
    """Label the steps of a solution; `None` if it has no step or a step without a usable score."""
    texts = tuple(step.text for step in state.steps)
    scores = [step.score for step in state.steps]
    if scores and scores[-1] is None and models.prm is not None:
        # The service has large steps scored with the draft after them, and after the last step there is none.
        request = ScoringRequest(
            problem_id=state.problem_id, question=state.question, steps=texts, newest=1, timeout_s=TIMEOUT_S
        )
        [scores[-1]] = models.prm.score(request, Cancellation(), Meter()).values
    known = [score for score in scores if score is not None]
    if not texts or len(known) < len(texts):
        return None
    right = first_error(parse(state.question).steps, texts)
    return Trace(
        question=state.question,
        scores=tuple(known),
        tokens=tuple(step.tokens for step in state.steps),
        authors=tuple(step.author for step in state.steps),
        first_error=right if right < len(texts) else None,
    )


def rewrites_of(state: State) -> Iterator[bool]:
    """Yield for each large step that took the place of a wrong draft after right steps whether it is right."""
    expected = parse(state.question).steps
    texts = tuple(step.text for step in state.steps)
    right = first_error(expected, texts)
    for record in state.decisions:
        if record.draft is None or record.decision.action is not Action.ESCALATE or record.step >= len(texts):
            continue
        is_wrong = record.step >= len(expected) or record.draft.text != expected[record.step]
        if record.step <= right and is_wrong:
            yield record.step < right


def measure(models: Models, policy: Policy, stories: Sequence[Story]) -> dict[str, float]:
    """Measure a policy beside each model alone, sampling as the method does."""

    def solve(chosen: Policy) -> list[Answered]:
        return [answered(state) for state in models.solve(problems_of(stories), chosen, sampling=Sampling(seed=1))]

    baselines, results = Baselines(small=solve(SmallOnly()), large=solve(LargeOnly())), solve(policy)
    return {
        "problems": float(len(stories)),
        "accuracy": round(accuracy(results), 4),
        "small_accuracy": round(accuracy(baselines.small), 4),
        "large_accuracy": round(accuracy(baselines.large), 4),
        "large_share": round(baselines.share(results), 4),
    }


def write(artefact: Artefact, folder: Path, name: str) -> None:
    """Write an artefact as `NAME.npz` and `NAME.json`. The card comes last, so its arrays are there before it."""
    folder.mkdir(parents=True, exist_ok=True)
    card, arrays = artefact.encode()
    for suffix, content in ((".npz", arrays), (".json", card)):
        written = folder / f"{name}{suffix}.new"
        written.write_bytes(content)
        written.replace(folder / f"{name}{suffix}")


def main() -> None:
    """Fit and write the policies of all bundled PRMs."""
    parser = argparse.ArgumentParser(prog="python -m recipe.policies", description="Fits the bundled policies.")
    parser.add_argument("--problems", type=int, default=1000, help="number of problems of the fit (default: 1000)")
    parser.add_argument("--into", type=Path, default=MODELS / "policies", help="folder of the artefacts")
    arguments = parser.parse_args()
    log.configure(Settings(log_level="warning"), role="policies")
    stories = list(islice(draw(Split.VALIDATION), arguments.problems))
    held_out = list(islice(draw(Split.VALIDATION, seed=_MEASURED_SEED), HELD_OUT))
    for prm in PRMS:
        with Models(MODELS / "small", MODELS / "large", MODELS / prm) as models:
            fitted = fit_pomdp(models, stories, command=f"python -m recipe.policies --problems {arguments.problems}")
            metrics = measure(models, Pomdp().fitted(fitted), held_out)
            card = fitted.card.model_copy(update={"metrics": metrics})
            write(Artefact(card, fitted.arrays), arguments.into / prm, Pomdp.name)
            print(f"{prm}: {Pomdp.name} fitted on {len(stories)} problems; {metrics}", flush=True)


if __name__ == "__main__":
    main()
