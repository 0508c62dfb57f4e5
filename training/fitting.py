"""Fits the policy `pomdp` with the engines of the settings: solve, label, estimate, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from evaluation.engines import LoadedEngines
from evaluation.in_process import Tell, solve
from evaluation.metrics import Baselines, Result, accuracy
from evaluation.problem_sources import ProblemSet
from shared.domain.options import Sampling, Wrappers
from shared.domain.verdict import Verdict
from shared.errors import PermanentError
from shared.machine.state import State
from shared.policies.artefact import Artefact
from shared.policies.baselines import LargeOnly, SmallOnly
from shared.policies.policy import Policy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold
from training import pomdp
from training.labelled_file import LabelledFile, score_all
from training.labelling import LABEL, label_all
from training.traces import Rewrite, Trace

EXPLORING: Final = Wrappers(epsilon=1.0)
"""Each step is written by either model with probability 1/2, whatever its score."""

Show = Callable[[str], Tell]
"""Begins to show the progress of a part of the work."""


class CannotFit(PermanentError):
    """The solutions do not show all that the fit estimates; collect more of them."""

    code = "cannot_fit"


def fit_to_problems(
    problems: ProblemSet,
    held_out: ProblemSet,
    engines: LoadedEngines,
    *,
    seed: int,
    large_token_price: float,
    card: Mapping[str, Any],
    show: Show,
) -> Artefact:
    """Fit to problems with known answers; the steps are labelled by continuation (`training/labelling.py`).

    Args:
        problems: Problems to fit on.
        held_out: Problems that measure the result; none measure nothing.
        engines: The engines.
        seed: Seed of sampling and lots.
        large_token_price: Price of a token at which the result is measured.
        card: Time and command, for the card.
        show: Shows the progress.

    Raises:
        CannotFit: The solutions lack what an estimate needs.
        EngineDead: An engine cannot go on.
    """
    sampling = Sampling(seed=seed)
    solved = solve(
        problems.problems,
        Threshold(threshold=0.5),
        engines,
        sampling=sampling,
        wrappers=EXPLORING,
        tell=show("solving"),
    )
    labelled, left_out = label_all(solved, engines, seed=seed, tell=show("labelling"))
    data = {
        **problems.data,
        "labels": LABEL,
        "sampling": asdict(sampling),
        "left_out": left_out,
        "validation_problems": len(held_out.problems),
    }
    rewrites = [rewrite for each in labelled for rewrite in each.rewrites]
    fitted = _fit([each.trace for each in labelled], rewrites, engines, data=data, card=card)
    if not held_out.problems:
        return fitted
    policy = Pomdp(large_token_price=large_token_price).fitted(fitted)
    metrics = _measure(held_out, policy, engines, sampling, show) | {"large_token_price": large_token_price}
    return Artefact(fitted.card.model_copy(update={"metrics": metrics}), fitted.arrays)


def fit_to_labelled(file: LabelledFile, engines: LoadedEngines, *, card: Mapping[str, Any], show: Show) -> Artefact:
    """Fit to step-labelled solutions; only the PRM computes.

    The accuracy of a large step is then that of the large model's steps in the file, which is higher than that of its
    steps in place of wrong drafts.

    Raises:
        CannotFit: The solutions lack what an estimate needs.
        EngineDead: The PRM cannot go on.
    """
    traces = score_all(file.solutions, engines, tell=show("scoring"))
    return _fit(traces, [], engines, data=dict(file.data), card=card)


def _fit(
    traces: Sequence[Trace],
    rewrites: Sequence[Rewrite],
    engines: LoadedEngines,
    *,
    data: dict[str, Any],
    card: Mapping[str, Any],
) -> Artefact:
    try:
        return pomdp.fit(traces, rewrites=rewrites, models=engines.models, data=data, metrics={}, **card)
    except ValueError as error:
        counts = ", ".join(f"{count} {reason}" for reason, count in data.get("left_out", {}).items())
        raise CannotFit(f"The policy cannot be fitted: {error}{counts and f' (left out: {counts})'}.") from None


def _measure(
    problems: ProblemSet, policy: Policy, engines: LoadedEngines, sampling: Sampling, show: Show
) -> dict[str, float]:
    """Measure a policy beside each model alone."""

    def results(chosen: Policy) -> list[Result]:
        solved = solve(problems.problems, chosen, engines, sampling=sampling, tell=show(f"measuring {chosen.name}"))
        return [result_of(state) for state in solved]

    baselines, found = Baselines(small=results(SmallOnly()), large=results(LargeOnly())), results(policy)
    metrics = {
        "accuracy": accuracy(found),
        "small_accuracy": accuracy(baselines.small),
        "large_accuracy": accuracy(baselines.large),
    }
    if any(each.large_tokens for each in baselines.large):
        metrics["large_share"] = baselines.share(found)
    return {name: round(value, 4) for name, value in metrics.items()}


def result_of(state: State) -> Result:
    """Return the result of a problem that has ended."""
    return Result(is_solved=state.verdict is Verdict.CORRECT, large_tokens=state.ledger.large_out)
