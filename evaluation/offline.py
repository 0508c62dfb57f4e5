"""Solves problems in one process: the simulated service on the embedded engine.

The engines remember the steps that a model wrote after each prefix, so a whole curve of thresholds costs little more
than one point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from evaluation.counting import Caches, Readers, RememberingReader
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
        writers = EmbeddedGenerator(small), EmbeddedGenerator(large)
        self._readers = tuple(RememberingReader(writer) for writer in writers)
        self._small, self._large = (RememberingGenerator(writer) for writer in writers)
        self.load_prm(prm)

    def load_prm(self, prm: Path | None) -> None:
        """Load a PRM in place of the present one, which stays open."""
        judge = EmbeddedScorer(prm) if prm else None
        self._prm_reader = RememberingReader(judge) if judge else None
        self.prm = RememberingScorer(judge) if judge else None

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

    @property
    def engines(self) -> Engines:
        """The engines; they remember."""
        return Engines(small=self._small, large=self._large, prm=self.prm)

    @property
    def readers(self) -> Readers:
        """How the engines encode what they read."""
        small, large = self._readers
        return Readers(small=small, large=large, prm=self._prm_reader)

    @contextmanager
    def with_prm(self, prm: Path) -> Iterator[Self]:
        """Yield the same models with another PRM; both share the generators, and all steps that these have written."""
        other = copy(self)
        other.load_prm(prm)
        assert other.prm is not None
        with closing(other.prm):
            yield other

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

        Their ledgers have what engines without the memory of earlier runs would compute.

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
        engines = self.readers.counting(self.engines, Caches())
        if scorer is not None:
            engines = replace(engines, prm=scorer)
        if Routing(policy, wrappers).plan.scores and engines.prm is None:
            raise RuntimeError("these models were loaded without a PRM")
        service = SimulatedService(engines, window=IN_FLIGHT)
        options = Options(limits=LIMITS, sampling=sampling, step_timeout_s=TIMEOUT_S)
        ids = [
            service.submit(question, policy, options, reference=reference, wrappers=wrappers)
            for question, reference in problems
        ]
        service.run(threads=IN_FLIGHT)
        return [service.state(problem_id) for problem_id in ids]
