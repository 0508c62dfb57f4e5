"""TRIM-Agg: a small network over numbers that summarise the solution so far (TRIM paper, section 4).

The paper has five of them. The sixth is the small model's own confidence: docs/decisions/0026 has the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from shared.domain.decisions import Observation
from shared.policies.artefact import Artefact
from shared.policies.learned.layers import WIDTH, Actor, Hidden, Scaling, log_odds, surprise
from shared.policies.learned.policy import LearnedPolicy

TOKENS_UNIT = 300
"""Tokens of a step that count as 1."""

STEPS_UNIT = 30
"""Index of a step that counts as 1, whatever the maximum number of steps is."""


def features(observation: Observation) -> tuple[float, ...]:
    """Summarise an observation: least and product of the earlier scores; score, tokens, index, surprise of the draft.

    The first three are log-odds, which the paper's code does not use: docs/decisions/0025 has the reason.
    Earlier steps without a score are left out. A draft without a score counts as 0, and without tokens as empty; the
    service decides such drafts by rule.

    Returns:
        `FEATURES` numbers.
    """
    return (
        log_odds(observation.min_previous),
        log_odds(observation.product_previous),
        log_odds(observation.score or 0.0),
        (observation.draft_tokens or 0) / TOKENS_UNIT,
        min(1.0, observation.step / STEPS_UNIT),
        surprise(observation.mean_logprob),
    )


FEATURES = 6


@dataclass(frozen=True, slots=True)
class AggregateNetwork:
    """Two hidden layers and the actor. The critic, which has a head like the actor's, is needed only for training."""

    scaling: Scaling
    first: Hidden
    second: Hidden
    actor: Actor

    @classmethod
    def read(cls, artefact: Artefact) -> Self:
        """Read the network.

        Raises:
            BadArtefact: An array is missing or has another shape.
        """
        return cls(
            Scaling.read(artefact, FEATURES),
            Hidden.read(artefact, "first", FEATURES),
            Hidden.read(artefact, "second", WIDTH),
            Actor.read(artefact),
        )

    def __call__(self, observation: Observation) -> float:
        """Return the probability of escalation."""
        seen = self.scaling(np.array(features(observation), dtype=np.float32))
        return self.actor(self.second(self.first(seen)))


class AggregatePolicy(LearnedPolicy):
    """Escalate where a small network expects that it pays (TRIM-Agg, section 4 of the TRIM paper).

    The network sees the least and the product of the earlier PRM scores; score, tokens and index of the draft; and,
    where the engine reports it, how likely the small model found the draft.
    """

    name: ClassVar[str] = "aggregate"

    def _read(self, artefact: Artefact) -> AggregateNetwork:
        return AggregateNetwork.read(artefact)
