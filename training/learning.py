"""Trains a learned policy with the engines of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import torch

from evaluation.engines import LoadedEngines
from evaluation.in_process import options_with
from evaluation.problem_sources import Problem, ProblemSet
from shared.domain.options import Sampling
from shared.machine.state import State, new_state
from shared.policies.artefact import Artefact
from training import ppo
from training.solving import EngineBranches


def train(
    policy: str,
    problems: ProblemSet,
    validation: ProblemSet,
    engines: LoadedEngines,
    *,
    settings: ppo.Settings,
    state: Path,
    card: Mapping[str, Any],
    report: Callable[[ppo.Progress], None],
) -> Artefact:
    """Train a policy, or resume its training.

    Args:
        policy: Name of the policy.
        problems: Problems to train on.
        validation: Problems that choose the best weights, and measure them.
        engines: The engines; with a memory on disk, a resumed training computes no step twice.
        settings: Settings of the training.
        state: File of the training's state.
        card: Time and command, for the artefact's card.
        report: Receives the progress.

    Raises:
        TrainingRefused: The state file belongs to another training.
        EngineDead: An engine cannot go on.
    """
    torch.set_num_threads(1)  # The networks are too small to share out.
    sampling = Sampling(seed=settings.seed)
    training = ppo.Training(
        policy,
        problems=_branches(problems.problems, engines, sampling),
        validation=_branches(validation.problems, engines, sampling),
        settings=settings,
        data={
            **problems.data,
            "validation_sha256": validation.data["problems_sha256"],
            "sampling": asdict(sampling),
            # With other models the training cannot go on.
            "models": engines.models.model_dump(),
        },
        path=state,
    )
    return training.run(report).artefact(models=engines.models, **card)


def _branches(problems: Sequence[Problem], engines: LoadedEngines, sampling: Sampling) -> EngineBranches:
    states: list[State] = [
        new_state(
            problem_id=uuid5(NAMESPACE_OID, question),
            question=question,
            reference=reference,
            options=options_with(sampling),
        )
        for question, reference in problems
    ]
    return EngineBranches(states, engines.workers, threads=engines.concurrency)
