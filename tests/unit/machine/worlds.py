"""Worlds, policies and limits for tests under disturbance, and the outcome that must not depend on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from shared.domain.options import Bridging, Limits, Options, Sampling, Wrappers
from shared.machine.state import State
from shared.policies.registry import build_routing
from shared.policies.wrapping import Routing
from simulation.disturbed import DisturbedService
from simulation.world import World

QUESTION = "What is 6 times 7?"


def _routing(name: str, parameters: dict[str, float], **wrappers: Any) -> Routing:
    return build_routing(name, parameters, Wrappers(**wrappers))


POLICIES: dict[str, Routing] = {
    "threshold 0.5": _routing("threshold", {"threshold": 0.5}),
    "threshold 0": _routing("threshold", {"threshold": 0}),
    "threshold 1": _routing("threshold", {"threshold": 1}),
    "small-only": _routing("small-only", {}),
    "large-only": _routing("large-only", {}),
    "random": _routing("random", {"p": 0.4}),
    "confidence": _routing("confidence", {"threshold": 0.4}),
    "cascade": _routing("cascade", {"threshold": 0.1}),
    "take-over": _routing("threshold", {"threshold": 0.3}, take_over=True),
    "epsilon": _routing("threshold", {"threshold": 0.5}, epsilon=0.4),
}

BUDGETED: dict[str, Routing] = {
    "budget": _routing("threshold", {"threshold": 0.5}, budget=25),
    "no budget": _routing("threshold", {"threshold": 0.5}, budget=0),
    "large-only with a budget": _routing("large-only", {}, budget=25),
    "take-over with a budget": _routing("threshold", {"threshold": 0.5}, budget=40, take_over=True),
    "cascade with a budget": _routing("cascade", {"threshold": 0.5}, budget=40),
}
"""Policies whose decisions depend on what was spent in vain, and so on what is lost."""

worlds = st.builds(
    World,
    uncounted=st.sampled_from((0.0, 0.2)),
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.06]),
    boxes=st.sampled_from([0.0, 0.06]),
    says_nothing=st.sampled_from([0.0, 0.06, 0.3]),
    scores_badly=st.sampled_from([0.0, 0.1]),
)
policies = st.sampled_from(["threshold 0.5", "threshold 0.5", "threshold 0.5", *POLICIES]).map(POLICIES.__getitem__)
budgeted = st.sampled_from(list(BUDGETED)).map(BUDGETED.__getitem__)
lookaheads = st.sampled_from([0, 1, 4, None])
limits = st.builds(Limits, max_steps=st.sampled_from([1, 2, 8, 12]), max_tokens=st.sampled_from([1, 30, 80, 10_000]))


class OneProblem(DisturbedService):
    """A disturbed service with one problem, submitted and admitted."""

    def __init__(
        self,
        world: World,
        policy: Routing,
        *,
        lookahead: int | None = 0,
        limits: Limits | None = None,
        seed: int = 0,
        max_attempts: int = 10_000,
        is_salted: bool = False,
        bridging: Bridging | None = None,
    ) -> None:
        super().__init__(world, is_salted=is_salted)
        options = Options(
            lookahead=lookahead,
            limits=limits or Limits(max_steps=8, max_tokens=80),
            sampling=Sampling(seed=seed),
            max_attempts=max_attempts,
            bridging=bridging or Bridging(),
        )
        self.problem_id: UUID = self.submit(QUESTION, policy.policy, options, wrappers=policy.wrappers)
        self.sweep()

    @property
    def problem(self) -> State:
        return self.state(self.problem_id)

    def end(self) -> State:
        """Run without further disturbance, and return the ended problem."""
        self.settle()
        return self.problem


def essence(state: State) -> tuple[object, ...]:
    """Return all that must not depend on the order or number of messages."""
    return (
        state.status,
        state.stop_reason,
        state.answer,
        state.failure,
        state.epoch,
        [(step.index, step.author, step.text, step.finish, step.tokens, step.score) for step in state.steps],
        [
            (record.step, record.epoch, record.observation, record.decision, record.decided_by)
            + ((record.draft.index, record.draft.text, record.draft.finish) if record.draft else ())
            for record in state.decisions
        ],
        state.ledger.small_kept,
        state.ledger.small_discarded,
        state.ledger.large_out,
    )
