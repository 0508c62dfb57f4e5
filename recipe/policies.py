"""Fits and trains the policies that ship with the bundled models: `python -m recipe.policies [--into FOLDER]`.

The models solve validation problems, sampling as the method does. `pomdp` is fitted to solutions of which each step was
written by either model with probability 1/2; the exact checker labels the steps. The learned policies are trained on
cached branches of solutions. Other validation problems measure the results, which go into the artefacts' cards.

Run the same command again after an interruption: it resumes at the last saved state of a training.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from evaluation.metrics import Baselines, accuracy
from evaluation.offline import Models
from recipe.problems.drawing import Split, draw
from recipe.problems.story import Story, problems_of
from recipe.studies import Trials
from recipe.traces import rewrites_of, trace_of
from shared import log
from shared.domain.options import Sampling, Wrappers
from shared.policies.artefact import Artefact
from shared.policies.learned.aggregate import AggregatePolicy
from shared.policies.learned.policy import LearnedPolicy
from shared.policies.learned.sequence import SequencePolicy
from shared.policies.policy import FittedPolicy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from shared.settings import MODELS, Settings
from stack.artefact_files import write_artefact
from stack.policies import COMMAND
from training import pomdp, ppo

PRMS: Final = ("prm", "prm-lite")
"""Folders of the PRMs to make policies for."""

STATE: Final = Path(".state/policies")
"""Folder of the state files of trainings."""

EXPLORING: Final = Wrappers(epsilon=1.0)
"""Each step is written by either model with probability 1/2, whatever its score."""

FITTED, TRAINED, CHOOSING, MEASURED = 1000, 1000, 400, 300
"""Number of problems that pomdp is fitted on, that networks are trained on, that choose the best of their weights, and
that measure the results."""

TRAININGS: Final[Mapping[type[LearnedPolicy], ppo.Settings]] = {
    AggregatePolicy: ppo.Settings(batches=3000),
    SequencePolicy: ppo.Settings(batches=1000),
}
"""How each learned policy is trained."""

SAMPLED: Final = Sampling()
"""How the method draws tokens."""


def drawn(count: int, *, seed: int) -> list[Story]:
    """Draw validation problems; another seed gives others."""
    return list(islice(draw(Split.VALIDATION, seed=seed), count))


def fit_pomdp(models: Models, *, card: Mapping[str, Any]) -> Artefact:
    """Fit the policy `pomdp` to how the models solve problems.

    Args:
        models: The models, with a PRM.
        card: Fields of the card.
    """
    stories = drawn(FITTED, seed=0)
    solved = models.solve(problems_of(stories), Threshold(threshold=0.5), sampling=SAMPLED, wrappers=EXPLORING)
    traces = [trace for state in solved if (trace := trace_of(models, state)) is not None]
    rewrites = [rewrite for state in solved for rewrite in rewrites_of(state)]
    return pomdp.fit(traces, rewrites=rewrites, metrics={}, **card)


def train(
    kind: type[LearnedPolicy],
    problems: Trials,
    choosing: Trials,
    held_out: Trials,
    *,
    state: Path,
    card: Mapping[str, Any],
) -> Artefact:
    """Train a learned policy on cached branches of solutions, or resume its training.

    Args:
        kind: The policy.
        problems: Problems to train on.
        choosing: Problems that choose the best weights.
        held_out: Problems that measure the result.
        state: State file of the training.
        card: Fields of the card.
    """
    training = ppo.Training(
        kind.name,
        problems=problems.branches,
        validation=choosing.branches,
        measured=held_out.branches,
        settings=TRAININGS[kind],
        data=card["data"],
        path=state,
    )
    fields = {name: card[name] for name in ("models", "created_at", "command")}
    return training.run(_report).artefact(**fields)


def measure(trials: Trials, policy: FittedPolicy) -> dict[str, float]:
    """Measure a policy beside each model alone."""
    results = trials.solve(policy, policy.name).trials
    baselines = Baselines(small=trials.small_only, large=trials.large_only)
    return {
        "problems": float(len(results)),
        "accuracy": round(accuracy(results), 4),
        "small_accuracy": round(accuracy(baselines.small), 4),
        "large_accuracy": round(accuracy(baselines.large), 4),
        "large_share": round(baselines.share(results), 4),
    }


def make(models: Models, state: Path) -> Iterator[Artefact]:
    """Make the artefacts of all policies for loaded models, measured on other problems."""
    card = {
        "models": models.ids,
        "data": {"problems": f"bundled, split {Split.VALIDATION}", "sampling": asdict(SAMPLED)},
        "created_at": datetime.now(UTC).replace(microsecond=0),
        "command": COMMAND,
    }
    held_out = Trials(drawn(MEASURED, seed=1), [SAMPLED], models)
    yield _measured(Pomdp(), fit_pomdp(models, card=card), held_out)
    problems = Trials(drawn(TRAINED, seed=0), [SAMPLED], models)
    choosing = Trials(drawn(CHOOSING, seed=2), [SAMPLED], models)
    for kind in TRAININGS:
        path = state.with_name(f"{state.name}-{kind.name}.pt")
        yield _measured(kind(), train(kind, problems, choosing, held_out, state=path, card=card), held_out)


def _measured(policy: FittedPolicy, artefact: Artefact, held_out: Trials) -> Artefact:
    metrics = artefact.card.metrics | measure(held_out, policy.fitted(artefact))
    return Artefact(artefact.card.model_copy(update={"metrics": metrics}), artefact.arrays)


def _report(progress: ppo.Progress) -> None:
    best = progress.best
    print(
        f"{progress.batch}/{progress.batches}: best {best.accuracy:.1%} with {best.large_tokens:.1f} large tokens a"
        " problem",
        flush=True,
    )


def main() -> None:
    """Make and write the policies of all bundled PRMs."""
    parser = argparse.ArgumentParser(prog="python -m recipe.policies", description="Makes the bundled policies.")
    parser.add_argument("--into", type=Path, default=MODELS / "policies", help="folder of the artefacts")
    arguments = parser.parse_args()
    log.configure(Settings(log_level="warning"), role="policies")
    torch.set_num_threads(1)  # The networks are too small to share out.
    gc.disable()  # Branches are millions of objects that stay; collections would traverse them again and again.
    with ExitStack() as stack:
        loaded = stack.enter_context(Models(MODELS / "small", MODELS / "large"))
        for prm in PRMS:
            models = stack.enter_context(loaded.with_prm(MODELS / prm))
            for artefact in make(models, STATE / prm):
                write_artefact(*artefact.encode(), arguments.into / prm / f"{artefact.card.policy}.json")
                print(f"{prm}: {artefact.card.policy}: {artefact.card.metrics}", flush=True)


if __name__ == "__main__":
    main()
