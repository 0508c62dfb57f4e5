"""The result of a training, and the artefact that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact
from shared.policies.learned.policy import QUANTILES, LearnedPolicy
from training.episodes import Figures
from training.networks import Weights, to_arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The result of a training."""

    policy: type[LearnedPolicy]
    weights: Weights
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    figures: Figures
    """On the problems that measure the result."""
    observations: Sequence[Observation]
    """Observations of all decisions on validation problems."""

    def artefact(self, *, models: ModelIds, created_at: datetime, command: str) -> Artefact:
        """Make the artefact; the arguments are fields of its card.

        The quantiles come from the code that decides later, so that equal observations have exactly equal
        probabilities in both.
        """
        arrays = to_arrays(self.weights)
        card = {
            "policy": self.policy.name,
            "models": models,
            "data": dict(self.data),
            "settings": dict(self.settings),
            "metrics": asdict(self.figures),
            "created_at": created_at,
            "command": command,
        }
        policy = self.policy().fitted(Artefact.make(arrays, **card))
        probabilities = [policy.decide(each).value for each in self.observations]
        quantiles = np.quantile(np.array(probabilities, dtype=np.float64), np.linspace(0, 1, QUANTILES))
        return Artefact.make(arrays | {"quantiles": quantiles}, **card)
