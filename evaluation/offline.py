"""Solves problems in one process: the simulated service on the embedded engine.

The engines remember the steps that a model wrote after each prefix, so a whole curve of thresholds costs little more
than one point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from evaluation.true_cost import recounted
from shared.domain.artefacts import ModelIds
from shared.domain.options import Limits, Options, Sampling, Wrappers
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import Scorer
from shared.machine.state import State
from shared.policies.policy import Policy
from shared.policies.wrapping import UNWRAPPED, Routing
from simulation.remembering import RememberingGenerator, RememberingScorer
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines

IN_FLIGHT = 64
"""Number of problems in flight, so that the engines can batch."""

GREEDY = Sampling(temperature=0)

LIMITS = Limits(max_steps=16, max_step_tokens=96)

TIMEOUT_S = 600.0
"""Timeout of one step in seconds; long, because the machine may be busy."""


class Models:
    """Loaded models. Without a PRM, only policies that need no scores can run."""

    def __init__(self, small: Path, large: Path, prm: Path | None = None) -> None:
        small_engine = EmbeddedGenerator(small)
        self._read = cache(small_engine.input_ids)
        self._small = RememberingGenerator(small_engine)
        self._large = RememberingGenerator(EmbeddedGenerator(large))
        self.prm = RememberingScorer(EmbeddedScorer(prm)) if prm else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in (self._small, self._large, self.prm):
            if engine is not None:
                engine.close()

    @property
    def ids(self) -> ModelIds:
        """The models as drafts and scorings name them.

        Raises:
            RuntimeError: There is no PRM.
        """
        if self.prm is None:
            raise RuntimeError("these models were loaded without a PRM")
        return ModelIds(small=self._small.model_id, large=self._large.model_id, prm=self.prm.model_id)

    @contextmanager
    def with_prm(self, prm: Path) -> Iterator[Self]:
        """Yield the same models with another PRM; both share the generators, and all steps that these have written."""
        other = copy(self)
        other.prm = RememberingScorer(EmbeddedScorer(prm))
        try:
            yield other
        finally:
            other.prm.close()

    def solve(
        self,
        problems: Sequence[tuple[str, str]],
        policy: Policy,
        *,
        scorer: Scorer | None = None,
        sampling: Sampling = GREEDY,
        wrappers: Wrappers = UNWRAPPED,
    ) -> list[State]:
        """Solve problems with a policy; return them in their order as the service would store them.

        Their ledgers have the input that engines without the memory of earlier runs compute.

        Args:
            problems: Question and reference of each.
            policy: The policy.
            scorer: Scorer of the drafts; the default is the PRM.
            sampling: Sampling of tokens.
            wrappers: How the policy is applied.

        Raises:
            RuntimeError: The policy needs scores, and there is no scorer.
            EngineDead: A model's engine crashed.
        """
        scorer = scorer or self.prm
        if Routing(policy, wrappers).plan.scores and scorer is None:
            raise RuntimeError("these models were loaded without a PRM")
        service = SimulatedService(Engines(small=self._small, large=self._large, prm=scorer), window=IN_FLIGHT)
        options = Options(limits=LIMITS, sampling=sampling, step_timeout_s=TIMEOUT_S)
        ids = [
            service.submit(question, policy, options, reference=reference, wrappers=wrappers)
            for question, reference in problems
        ]
        service.run(threads=IN_FLIGHT)
        return [recounted(service.state(problem_id), self._read) for problem_id in ids]
