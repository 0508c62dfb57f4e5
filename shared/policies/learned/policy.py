"""Base class of learned policies: a network gives the probability of escalation, and a cut decides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field, PrivateAttr

from shared.domain.decisions import Action, Decision, Observation
from shared.domain.options import Plan
from shared.policies.artefact import Artefact, BadArtefact
from shared.policies.policy import FittedPolicy

QUANTILES = 1001
"""Number of quantiles of the probability that an artefact holds, at the levels 0, 0.001, ..., 1."""

LIKELIER = 0.5
"""Cut above which escalation is the likelier action."""

Network = Callable[[Observation], float]
"""Computes the probability of escalation."""


class LearnedPolicy(FittedPolicy):
    """Escalates a draft if its probability of escalation is above a cut.

    The cut is a quantile of the probabilities on the steps of validation problems, because the values themselves are
    spread unevenly: most operating points may lie between two neighbouring values.
    """

    escalate_share: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="Share of the steps of validation problems to escalate; null escalates where the network"
            " prefers it, which is the trade-off that it was trained for.",
        ),
    ] = None

    _network_and_cut: tuple[Network, float] | None = PrivateAttr(default=None)

    @property
    def plan(self) -> Plan:
        """Drafts with log-probabilities, and scores."""
        return Plan(confidence=True)

    def decide(self, observation: Observation) -> Decision:
        """Compare the probability of escalation with the cut."""
        ready = self._network_and_cut  # Read once: pydantic takes microseconds to find a private attribute.
        assert ready is not None, "a learned policy decides only once it is fitted"
        network, cut = ready
        probability = network(observation)
        is_above = probability > cut
        return Decision(
            action=Action.ESCALATE if is_above else Action.ACCEPT,
            reason="probability_above_cut" if is_above else "probability_at_most_cut",
            value=probability,
            compared_with=cut,
        )

    def _prepare(self, artefact: Artefact) -> None:
        network, share = self._read(artefact), self.escalate_share
        self._network_and_cut = network, LIKELIER if share is None else _cut(artefact, share)

    @abstractmethod
    def _read(self, artefact: Artefact) -> Network:
        """Build the network from an artefact; raises `BadArtefact`."""


def _cut(artefact: Artefact, share: float) -> float:
    """Return the probability that a share of the validation steps exceeds.

    Raises:
        BadArtefact: The quantiles are missing, or no probabilities in ascending order.
    """
    quantiles = artefact.array("quantiles", QUANTILES)
    if quantiles[0] < 0 or quantiles[-1] > 1 or (quantiles[1:] < quantiles[:-1]).any():
        raise BadArtefact(
            f"The quantiles of the artefact of {artefact.card.policy!r} should be probabilities in ascending order;"
            " train it again."
        )
    return float(np.interp(1 - share, np.linspace(0, 1, QUANTILES), quantiles))
