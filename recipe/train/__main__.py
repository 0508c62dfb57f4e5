"""Trains the bundled models from scratch: `python -m recipe.train [--threads N] [--state FOLDER] [--into FOLDER]`.

Stages: tokenizer, small model, large model, samples of both, PRM, lite PRM, model folders. Each stage stores its result
in the state folder. Run the same command again after an interruption: it resumes at the last checkpoint. The same
machine and number of threads reproduce the same models; elsewhere they differ by rounding.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer

from evaluation.offline import GREEDY, Models
from recipe.problems.drawing import Split, draw
from recipe.problems.story import problems_of
from recipe.train import folder, language_model, prm, samples
from recipe.train.loop import Schedule
from recipe.train.network import Shape, Weights, without_helpers
from recipe.train.tokenizer import train_tokenizer
from shared import log
from shared.domain.options import Sampling
from shared.domain.verdict import Verdict
from shared.policies.baselines import SmallOnly
from shared.settings import Settings

STATE = Path(".state/models")
INTO = STATE / "trained"

HELD_OUT = 300
"""Number of validation problems on which models are measured at their checkpoints."""

SMALL_SOLVES = 0.5
"""Share of them at which training of the small model ends: a model that rarely errs would demonstrate nothing."""

SMALL_NEARLY_SOLVES, ASKED_EVERY = 0.15, 100
"""The share is measured every `ASKED_EVERY` steps until it reaches `SMALL_NEARLY_SOLVES`, then at each checkpoint: from
there on, 100 steps may raise it from a half to nine tenths."""

SAMPLES = (
    (GREEDY, 2000),
    (Sampling(seed=1), 1500),
    (Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=2), 1500),
)
"""How the PRMs' training problems are sampled, and how many with each setting."""

MIXED_SAMPLES = ((Sampling(seed=3), 2500),)
"""The same for the solutions by both models, on which only the lite PRM is trained."""

Made = TypeVar("Made")


def small_plan(vocabulary: int) -> language_model.Plan:
    """Return the plan of the small model. Training ends early once it solves `SMALL_SOLVES` of its problems."""
    return language_model.Plan(
        name="small",
        shape=Shape(vocabulary=vocabulary, hidden=96, layers=3, heads=3, wide=256),
        schedule=Schedule(steps=4500, rate=3e-3),
        seed=1,
        sheets_until=0.05,
        short_until=0.4,
    )


def large_plan(vocabulary: int) -> language_model.Plan:
    """Return the plan of the large model."""
    return language_model.Plan(
        name="large",
        shape=Shape(vocabulary=vocabulary, hidden=192, layers=5, heads=6, wide=640),
        schedule=Schedule(steps=3600, rate=2e-3),
        seed=2,
        sheets_until=0.07,
        short_until=0.285,
        identity=0.2,
    )


PRM_PLAN = prm.Plan(
    name="prm",
    layers=5,
    fresh_layers=2,
    adapting=Schedule(steps=600, rate=7e-4),
    judging=Schedule(steps=1800, rate=3e-3),
    seed=5,
    compare_until=0.2,
    simple_until=0.5,
)
"""Plan of the PRM, on all layers of the large model."""

PRM_LITE_PLAN = prm.Plan(
    name="prm-lite",
    layers=2,
    fresh_layers=2,
    wide=240,
    adapting=Schedule(steps=1400, rate=1.5e-3),
    judging=Schedule(steps=1400, rate=3e-3),
    seed=7,
    compare_until=0.2,
    simple_until=0.5,
)
"""Plan of the lite PRM, on the first layers of the small model, somewhat narrower to stay below half a million
parameters."""


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(prog="python -m recipe.train", description="Train the bundled models.")
    parser.add_argument("--threads", type=int, default=2, help="cores to use (default: 2)")
    parser.add_argument("--state", type=Path, default=STATE, help=f"folder of the checkpoints (default: {STATE})")
    parser.add_argument("--into", type=Path, default=INTO, help=f"folder to write the models to (default: {INTO})")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # The simulated orchestrator logs the end of each problem.
    log.configure(Settings(log_level="warning"), role="train")
    state: Path = arguments.state
    state.mkdir(parents=True, exist_ok=True)

    tokenizer = timed("tokenizer", train_tokenizer)
    plans = {
        plan.name: plan for plan in (small_plan(tokenizer.get_vocab_size()), large_plan(tokenizer.get_vocab_size()))
    }

    solved = state / "small-solved"  # Stored, so that a resumed run measures at the same steps as an uninterrupted one.

    def is_small_enough(step: int, weights: Weights) -> bool:
        share = float(solved.read_text(encoding="utf-8")) if solved.exists() else 0.0
        if step % ASKED_EVERY and share < SMALL_NEARLY_SOLVES:
            return False
        put(state / "small", plans["small"].shape, without_helpers(weights), tokenizer)
        share = share_solved(state / "small")
        solved.write_text(str(share), encoding="utf-8")
        return share >= SMALL_SOLVES

    weights = {
        "small": timed(
            "small", partial(language_model.train, plans["small"], tokenizer, state, is_enough=is_small_enough)
        ),
        "large": timed("large", partial(language_model.train, plans["large"], tokenizer, state)),
    }
    for name, plan in plans.items():
        put(state / name, plan.shape, without_helpers(weights[name]), tokenizer)
    corrected, mixed, held_out = timed("samples", lambda: sample(state))
    model, start = plans["large"].shape, weights["large"]
    train_prm(PRM_PLAN, tokenizer, state, model=model, weights=start, training=corrected, held_out=held_out)
    # From the written file, which is rounded: the bundled small model gives the same lite PRM as a new training.
    model, start = plans["small"].shape, folder.read(state / "small")
    training = [*corrected, *mixed]
    train_prm(PRM_LITE_PLAN, tokenizer, state, model=model, weights=start, training=training, held_out=held_out)
    for name in (*plans, PRM_PLAN.name, PRM_LITE_PLAN.name):
        shutil.copytree(state / name, arguments.into / name, dirs_exist_ok=True)
    print(f"The models are in {arguments.into}.")


def train_prm(
    plan: prm.Plan,
    tokenizer: Tokenizer,
    state: Path,
    *,
    model: Shape,
    weights: Weights,
    training: Sequence[samples.Sample],
    held_out: Sequence[samples.Sample],
) -> None:
    """Train a PRM from a language model, and write its folder."""
    train = partial(prm.train, plan, tokenizer, model=model, weights=weights, training=training, held_out=held_out)
    put(state / plan.name, prm.shape_of(plan, model), timed(plan.name, partial(train, folder=state)), tokenizer)


def sample(state: Path) -> tuple[list[samples.Sample], list[samples.Sample], list[samples.Sample]]:
    """Sample the PRMs' training data, corrected and mixed, and validation data."""
    with Models(state / "small", state / "large") as models:
        samples.sample_training(models, state / "samples.jsonl", samples.corrected, seed=1000, plan=SAMPLES)
        samples.sample_training(models, state / "mixed.jsonl", samples.mixed, seed=2000, plan=MIXED_SAMPLES)
        held_out = samples.held_out(models, HELD_OUT, Sampling())
    return samples.read(state / "samples.jsonl"), samples.read(state / "mixed.jsonl"), held_out


def share_solved(path: Path) -> float:
    """Measure the share of validation problems that the model in a folder solves alone."""
    stories = list(islice(draw(Split.VALIDATION), HELD_OUT))
    with Models(path, path) as models:
        solved = models.solve(problems_of(stories), SmallOnly())
    share = sum(state.verdict is Verdict.CORRECT for state in solved) / len(stories)
    print(f"{path}: solves {share:.1%}", flush=True)
    return share


def put(path: Path, shape: Shape, weights: Weights, tokenizer: Tokenizer) -> None:
    """Write a model folder and print how closely its graph matches the reference."""
    difference = folder.write(path, shape, weights, tokenizer)
    size = sum(weight.numel() for weight in weights.values())
    print(f"{path}: {size / 1e6:.2f} M parameters, greatest difference from the reference {difference:.1e}", flush=True)


def timed(stage: str, work: Callable[[], Made]) -> Made:
    """Run a stage and print how long it took."""
    started = time.monotonic()
    made = work()
    print(f"stage {stage}: {time.monotonic() - started:.0f} s", flush=True)
    return made


if __name__ == "__main__":
    main()
