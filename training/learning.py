"""Trains a learned policy with the engines of the settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import torch

from evaluation.engines import LoadedEngines
from evaluation.in_process import options_with
from evaluation.problem_sources import Problem, ProblemSet
from shared.domain.decisions import Action
from shared.domain.options import Options, Sampling
from shared.machine.state import new_state
from shared.policies.artefact import Artefact
from shared.policies.registry import POLICIES
from training import ppo
from training.environment import Outcome
from training.solving import EngineBranches, Undecided


def train(
    policy: str,
    problems: ProblemSet,
    validation: ProblemSet,
    measured: ProblemSet,
    engines: LoadedEngines,
    *,
    settings: ppo.Settings,
    state: Path,
    card: Mapping[str, Any],
    report: Callable[[ppo.Progress], None],
    tell: Callable[[int], object] = lambda _: None,
) -> Artefact:
    """Train a policy, or resume its training.

    Args:
        policy: Name of the policy.
        problems: Problems to train on.
        validation: Problems that choose the best weights.
        measured: Problems that measure the result.
        engines: The engines; with a memory on disk, a resumed training computes no step twice.
        settings: Settings of the training.
        state: File of the training's state.
        card: Time and command, for the artefact's card.
        report: Receives the progress of the training.
        tell: Receives the number of decisions so far whose outcomes the engines have computed.

    Raises:
        UnusableProblems: A part has no problem.
        TrainingRefused: The state file belongs to another training.
        EngineDead: An engine cannot go on.
    """
    torch.set_num_threads(1)  # The networks are too small to share out.
    counted = itertools.count(1)

    def count() -> None:
        tell(next(counted))

    options = replace(options_with(Sampling(seed=settings.seed)), plan=POLICIES[policy]().plan)

    def branches(part: ProblemSet) -> _CountedBranches:
        return _CountedBranches(part.problems, engines, options, count)

    training = ppo.Training(
        policy,
        problems=branches(problems),
        validation=branches(validation),
        measured=branches(measured),
        settings=settings,
        data={
            **problems.data,
            "validation_sha256": validation.data["problems_sha256"],
            "measured_sha256": measured.data["problems_sha256"],
            "sampling": asdict(options.sampling),
            # With other models the training cannot go on.
            "models": asdict(engines.models),
        },
        path=state,
    )
    return training.run(report).artefact(models=engines.models, **card)


class _CountedBranches(EngineBranches):
    """Branches of problems with their options; counts the outcomes that it computes."""

    def __init__(
        self, problems: Sequence[Problem], engines: LoadedEngines, options: Options, count: Callable[[], None]
    ) -> None:
        states = [
            new_state(
                problem_id=uuid5(NAMESPACE_OID, question),
                question=question,
                reference=reference,
                options=options,
            )
            for question, reference in problems
        ]
        super().__init__(states, engines.workers, threads=engines.concurrency)
        self._count = count

    def _take(self, place: Undecided, action: Action) -> Outcome[Undecided]:
        outcome = super()._take(place, action)
        self._count()
        return outcome
