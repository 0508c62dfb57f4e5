"""Solves problems with many settings of every policy, offline.

Most decisions of two policies are equal, and so are the steps between them. Branches (`training/environment.py`)
compute each step once: the real state machine and the workers' code take it, whichever policy first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from evaluation.offline import IN_FLIGHT, LIMITS, TIMEOUT_S, Models
from evaluation.study import Decided, Setting, Study, Trial
from recipe.exact_checker import ExactChecker
from recipe.problems.story import Story, problems_of
from shared.domain.decisions import Action, Observation
from shared.domain.ledger import Ledger
from shared.domain.options import Options, Plan, Sampling
from shared.domain.verdict import Verdict
from shared.engines.port import Scorer
from shared.machine.state import State, new_state
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.cascade import Cascade
from shared.policies.policy import Policy
from shared.policies.threshold import Threshold
from training.environment import Outcome, Turn
from training.solving import EngineBranches, Undecided

EVERYTHING: Final = Plan(confidence=True)
"""A plan of which every policy finds in its observations what it needs: scores and log-probabilities."""

LEAST: Final = 1e-12
"""A threshold below every score."""

ORACLE: Final = "oracle"
"""Name of the policy that knows which drafts are wrong; only an evaluation has it."""

Choose = Callable[[int, Turn[Undecided]], Action]
"""Decides a turn of a problem, which is given by its place among the trials."""


@dataclass(frozen=True)
class Trials:
    """Problems to solve, each with some seeds, and the branches of their solutions."""

    stories: Sequence[Story]
    samplings: Sequence[Sampling]
    """How tokens are drawn, once for each time that a problem is solved."""
    models: Models
    _known: dict[tuple[int, bool], Trial] = field(default_factory=dict, init=False)

    @cached_property
    def problems(self) -> list[State]:
        """The problems to solve: by story, then by sampling."""
        problems = [(problem, sampling) for problem in problems_of(self.stories) for sampling in self.samplings]
        options = Options(plan=EVERYTHING, limits=LIMITS, step_timeout_s=TIMEOUT_S)
        return [
            new_state(
                problem_id=UUID(int=number),
                question=question,
                reference=reference,
                options=replace(options, sampling=sampling),
            )
            for number, ((question, reference), sampling) in enumerate(problems)
        ]

    @cached_property
    def branches(self) -> EngineBranches:
        """The branches of their solutions."""
        return EngineBranches(self.problems, self.models.engines, readers=self.models.readers, threads=IN_FLIGHT)

    @cached_property
    def small_only(self) -> list[Trial]:
        """Results of the small model alone; unlike on branches, no rule may escalate."""
        return self.simulate(SmallOnly())

    @cached_property
    def large_only(self) -> list[Trial]:
        """Results of the large model alone, which is never asked between steps."""
        return self.simulate(LargeOnly())

    @cached_property
    def oracle(self) -> list[Trial]:
        """Results with an exact checker in place of the PRM, whose scores are free."""
        return self.simulate(Threshold(threshold=0.5), scorer=ExactChecker())

    def simulate(self, policy: Policy, *, scorer: Scorer | None = None) -> list[Trial]:
        """Solve all problems with a policy in the simulated service."""
        solved = [
            self.models.solve(problems_of(self.stories), policy, scorer=scorer, sampling=sampling)
            for sampling in self.samplings
        ]
        return [trial_of(state) for states in zip(*solved, strict=True) for state in states]

    def play(self, choose: Choose) -> list[Path]:
        """Solve all problems, all in step, so that the engines batch."""
        paths = [Path(start, ()) for start in self.branches.begin(range(len(self.problems)))]
        while live := [(place, path.end.turn) for place, path in enumerate(paths) if path.end.turn]:
            actions = [choose(place, turn) for place, turn in live]
            outcomes = self.branches.follow([turn for _, turn in live], actions)
            for (place, turn), action, outcome in zip(live, actions, outcomes, strict=True):
                paths[place] = Path(outcome, (*paths[place].taken, (turn.observation, action)))
        return paths

    def solve(self, policy: Policy, label: str) -> Setting:
        """Solve all problems with a policy."""
        if isinstance(policy, Cascade):
            return self._cascade(policy, label)
        paths = self.play(lambda _, turn: policy.decide(turn.observation).action)
        return Setting(policy=policy.name, label=label, trials=[self._trial(path, policy) for path in paths])

    @cached_property
    def kept_by_cascade(self) -> list[Trial]:
        """Results of a cascade that keeps every solution of the small model, which writes it in one go."""
        return self.simulate(Cascade(threshold=LEAST))

    @cached_property
    def accepted(self) -> list[Path]:
        """The small model's solutions, scored."""
        return self.play(lambda _place, _turn: Action.ACCEPT)

    def _trial(self, path: Path, policy: Policy) -> Trial:
        """Return the result of a path. Most settings share most paths, so each result is made once."""
        scores = policy.plan.scores
        key = id(path.end), scores  # Branches keep their outcomes, so the number stays that of this end.
        if key not in self._known:
            self._known[key] = path.trial(scores=scores)
        return self._known[key]

    def _cascade(self, policy: Cascade, label: str) -> Setting:
        """Solve whole problems: the small model's solution, or after it the large model's."""
        trials = []
        for path, kept, large in zip(self.accepted, self.kept_by_cascade, self.large_only, strict=True):
            seen = [observation for observation, _ in path.taken]
            if not seen or policy.decide(_whole(seen)).action is Action.ACCEPT:
                trials.append(kept)
                continue
            trials.append(_escalated(kept, large, first=seen[0]))
        return Setting(policy=policy.name, label=label, trials=trials)


@dataclass(frozen=True, slots=True)
class Path:
    """One way to solve a problem."""

    end: Outcome[Undecided]
    """The latest outcome."""
    taken: tuple[tuple[Observation, Action], ...]
    """The decisions so far."""

    def trial(self, *, scores: bool) -> Trial:
        """Return the result for a policy that reads scores, or for one that has no PRM to pay for."""
        assert self.end.ledger is not None, "the problem has ended"
        ledger = self.end.ledger if scores else replace(self.end.ledger, prm_tokens=0, prm_calls=0)
        return Trial(
            is_solved=self.end.is_solved,
            large_tokens=ledger.large_out,
            ledger=ledger,
            decisions=[
                Decided(
                    step=observation.step,
                    escalates=action is Action.ESCALATE,
                    score=observation.score if scores else None,
                )
                for observation, action in self.taken
            ],
        )


def trial_of(state: State) -> Trial:
    """Return the result of a problem that has ended."""
    return Trial(
        is_solved=state.verdict is Verdict.CORRECT,
        large_tokens=state.ledger.large_out,
        ledger=state.ledger,
        decisions=[
            Decided(
                step=record.step,
                escalates=record.decision.action is Action.ESCALATE,
                score=record.observation.score,
            )
            for record in state.decisions
        ],
    )


def _whole(seen: Sequence[Observation]) -> Observation:
    """Return what a policy that decides whole solutions sees at the first step."""
    first, *rest = seen
    return replace(first, following_scores=tuple(each.score for each in rest))


def _escalated(kept: Trial, large: Trial, *, first: Observation) -> Trial:
    """Return the result of a cascade that escalates: it discards the first draft, and so wastes those after it.

    Args:
        kept: Result of keeping the small model's solution.
        large: Result of the large model alone.
        first: What the policy sees at the first draft.
    """
    discarded, rest = first.draft_tokens or 0, kept.ledger.small_kept - (first.draft_tokens or 0)
    ledger = replace(kept.ledger, small_kept=0, small_discarded=discarded, small_wasted=kept.ledger.small_wasted + rest)
    scores = {first.step: first.score}
    decisions = [replace(each, score=scores.get(each.step)) for each in large.decisions]
    return replace(large, ledger=_sum(ledger, large.ledger), decisions=decisions)


def _sum(one: Ledger, other: Ledger) -> Ledger:
    names: Mapping[str, int] = {name: getattr(one, name) + getattr(other, name) for name in Ledger.__slots__}
    return Ledger(**names)


def study(trials: Trials, settings: Iterable[tuple[Policy, str]], **described: Any) -> Study:
    """Solve problems with every setting, and return the results.

    Args:
        trials: The problems.
        settings: Policies with the labels of their settings.
        described: The other fields of the study.
    """
    return Study(
        problems=len(trials.stories),
        seeds=len(trials.samplings),
        small=Setting(policy=SmallOnly.name, label=SmallOnly.name, trials=trials.small_only),
        large=Setting(policy=LargeOnly.name, label=LargeOnly.name, trials=trials.large_only),
        settings=[
            *(trials.solve(policy, label) for policy, label in settings),
            Setting(policy=ORACLE, label=ORACLE, trials=trials.oracle),
        ],
        **described,
    )
