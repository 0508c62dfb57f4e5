"""Solves problems with models in one process: the simulated service on the embedded engine.

The engines remember what a model wrote after a prefix, so a whole curve of thresholds costs little more than one
point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.domain.options import Limits, Options, Sampling
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import Scorer
from shared.machine.state import State
from shared.policies.policy import Policy
from simulation.remembering import RememberingGenerator, RememberingScorer
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines

IN_FLIGHT = 64
"""Number of problems that are solved at the same time, so that the engines have something to batch."""

GREEDY = Sampling(temperature=0)

LIMITS = Limits(max_steps=16, max_step_tokens=96)

TIMEOUT_S = 600.0
"""Seconds for one step, however busy the machine is."""


class Models:
    """Loaded models. Without a PRM's folder, only policies that read no scores can run."""

    def __init__(self, small: Path, large: Path, prm: Path | None = None) -> None:
        self._small = RememberingGenerator(EmbeddedGenerator(small))
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

    def solve(
        self,
        problems: Sequence[tuple[str, str]],
        policy: Policy,
        *,
        scorer: Scorer | None = None,
        sampling: Sampling = GREEDY,
    ) -> list[State]:
        """Solve problems with a policy; return them in their order as the service would store them.

        Args:
            problems: Question and reference of each.
            policy: The policy.
            scorer: What scores the drafts; by default the PRM.
            sampling: How tokens are drawn.

        Raises:
            RuntimeError: The policy needs scores, and nothing gives them.
            EngineDead: A model broke down.
        """
        scorer = scorer or self.prm
        if policy.plan.scores and scorer is None:
            raise RuntimeError("these models were loaded without a PRM")
        service = SimulatedService(Engines(small=self._small, large=self._large, prm=scorer), window=IN_FLIGHT)
        options = Options(limits=LIMITS, sampling=sampling, step_timeout_s=TIMEOUT_S)
        ids = [service.submit(question, policy, options, reference=reference) for question, reference in problems]
        service.run(threads=IN_FLIGHT)
        return [service.state(problem_id) for problem_id in ids]
