"""Worlds, policies and limits for tests under disturbance, and the outcome that must not depend on it."""

from __future__ import annotations

from uuid import UUID

from hypothesis import strategies as st

from shared.domain.options import Limits, Options, Sampling
from shared.machine.state import State
from shared.policies.policy import Policy
from shared.policies.registry import build_policy
from simulation.disturbed import DisturbedService
from simulation.world import World

QUESTION = "What is 6 times 7?"

POLICIES: dict[str, Policy] = {
    "threshold 0.5": build_policy("threshold", {"threshold": 0.5}),
    "threshold 0": build_policy("threshold", {"threshold": 0}),
    "threshold 1": build_policy("threshold", {"threshold": 1}),
    "small-only": build_policy("small-only", {}),
    "large-only": build_policy("large-only", {}),
    "random": build_policy("random", {"p": 0.4}),
}

worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.06]),
    boxes=st.sampled_from([0.0, 0.06]),
    says_nothing=st.sampled_from([0.0, 0.06, 0.3]),
    scores_badly=st.sampled_from([0.0, 0.1]),
)
policies = st.sampled_from(["threshold 0.5", "threshold 0.5", "threshold 0.5", *POLICIES]).map(POLICIES.__getitem__)
lookaheads = st.sampled_from([0, 1, 4, None])
limits = st.builds(Limits, max_steps=st.sampled_from([1, 2, 8, 12]), max_tokens=st.sampled_from([1, 30, 80, 10_000]))


class OneProblem(DisturbedService):
    """A disturbed service with one problem, submitted and admitted."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        *,
        lookahead: int | None = 0,
        limits: Limits | None = None,
        seed: int = 0,
        max_attempts: int = 10_000,
        is_salted: bool = False,
    ) -> None:
        super().__init__(world, is_salted=is_salted)
        options = Options(
            lookahead=lookahead,
            limits=limits or Limits(max_steps=8, max_tokens=80),
            sampling=Sampling(seed=seed),
            max_attempts=max_attempts,
        )
        self.problem_id: UUID = self.submit(QUESTION, policy, options)
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
