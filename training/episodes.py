"""Episodes: problems as a network in training solves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.domain.decisions import Action, Observation
from shared.policies.learned.policy import LIKELIER
from training.environment import Branches, Outcome
from training.networks import Network, Weights


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of an episode."""

    observation: Observation
    escalates: bool
    log_probability: float
    """Of the action, when it was taken."""
    value: float
    """Expected reward from here on, when the action was taken."""
    reward: float


@dataclass(slots=True)
class Episode:
    """One problem as a policy solves it."""

    outcome: Outcome[Any]
    """The latest outcome."""
    large_tokens: int
    steps: list[Step] = field(default_factory=list)

    def advantages(self, smoothing: float) -> list[float]:
        """Compute the generalised advantage estimate of each step, without discount (Schulman et al. 2016)."""
        advantages: list[float] = []
        advantage = value_after = 0.0
        for step in reversed(self.steps):
            advantage = step.reward + value_after - step.value + smoothing * advantage
            value_after = step.value
            advantages.append(advantage)
        return advantages[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Results of a policy on some problems."""

    accuracy: float
    large_tokens: float
    """Mean per problem."""
    escalated: float
    """Share of the decisions."""

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Figures:
        """Summarise episodes."""
        decisions = [step.escalates for episode in episodes for step in episode.steps]
        return cls(
            accuracy=sum(each.outcome.is_solved for each in episodes) / len(episodes),
            large_tokens=sum(each.large_tokens for each in episodes) / len(episodes),
            escalated=sum(decisions) / max(1, len(decisions)),
        )

    def reward(self, large_token_price: float) -> float:
        """Return the mean reward per problem."""
        return self.accuracy - large_token_price * self.large_tokens


Choose = Callable[[Tensor], Tensor]
"""Decides from the probabilities of escalation which drafts to escalate."""


def preferred(probabilities: Tensor) -> Tensor:
    """Escalate where that is the likelier action."""
    return probabilities > LIKELIER


def drawn(generator: torch.Generator) -> Choose:
    """Escalate with the given probabilities."""
    return lambda probabilities: torch.rand(probabilities.shape, generator=generator) < probabilities


def play(
    network: Network,
    weights: Weights,
    branches: Branches[Any],
    problems: Sequence[int],
    *,
    choose: Choose,
    large_token_price: float,
) -> list[Episode]:
    """Solve problems, all in step, so that the network takes their decisions together."""
    episodes = [Episode(outcome, outcome.large_tokens) for outcome in branches.begin(problems)]
    while turns := [(each, each.outcome.turn) for each in episodes if each.outcome.turn is not None]:
        with torch.no_grad():
            logits, values = network(weights, network.encode([turn.observation for _, turn in turns]))
        logs = logits.log_softmax(-1)
        escalates = choose(logs[:, 1].exp())
        actions = [Action.ESCALATE if each else Action.ACCEPT for each in escalates.tolist()]
        outcomes = branches.follow([turn for _, turn in turns], actions)
        taken = logs.gather(1, escalates.long()[:, None])[:, 0]
        rows = zip(turns, escalates.tolist(), taken.tolist(), values.tolist(), outcomes, strict=True)
        for (episode, turn), is_escalated, log_probability, value, outcome in rows:
            reward = outcome.is_solved - large_token_price * outcome.large_tokens
            episode.steps.append(Step(turn.observation, is_escalated, log_probability, value, reward))
            episode.large_tokens += outcome.large_tokens
            episode.outcome = outcome
    return episodes
