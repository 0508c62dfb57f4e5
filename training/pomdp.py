"""Fits the model of the policy `pomdp` to step-labelled solutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from shared.domain.roles import Author
from shared.policies.artefact import Artefact, Floats
from shared.policies.pomdp.model import BINS, STATES, Model
from shared.policies.pomdp.policy import Pomdp
from training.traces import Rewrite, Trace

RIGHT, PREFIX_WRONG, STEP_WRONG = range(STATES)
"""Hidden states, in the order of `Belief`."""

IN_WORDS: Final = ("a right step after right ones", "a step after the first error", "a first error")
"""What a solution must show of each state, so that its density can be estimated."""

CERTAIN: Final = (1e-6, 1 - 1e-6)
"""Scores beyond which log-odds count as those of these."""

OUTER: Final = (0.001, 0.999)
"""Quantiles of the log-odds at which the outer bins would end; they take all scores beyond too."""


class Settings(BaseModel):
    """Settings of a fit. They are stored in the artefact's card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: int = Field(default=30, ge=1)
    """Maximum horizon: longer solutions count as solutions of this length."""
    bandwidth: float = Field(default=1.0, gt=0)
    """Standard deviation of the smoothing of scores, in bins."""
    floor: float = Field(default=1e-9, gt=0)
    """Least probability of a bin, so that no score is ever impossible."""
    strength: float = Field(default=5.0, gt=0)
    """Number of observations that the mean over all steps counts for, where a number is estimated by step."""


def fit(
    traces: Sequence[Trace], *, rewrites: Sequence[Rewrite] = (), settings: Settings | None = None, **card: Any
) -> Artefact:
    """Fit the model of the policy `pomdp`.

    Args:
        traces: Solutions that show every hidden state and steps of both authors.
        rewrites: Large steps in place of drafts. They give the tokens that a draft lets expect of a large step. Those
            in place of wrong drafts after right steps give its accuracy; the fewer there are, the more the large
            model's steps in `traces` do, which are right more often, because most of them are no rewrites.
        settings: Settings of the fit.
        card: The other fields of the artefact's card; `data` is extended by the numbers of solutions and steps.

    Raises:
        ValueError: The traces lack what an estimate needs.
    """
    if not traces:
        raise ValueError("there are no traces to fit; collect solutions of both models first")
    settings = settings or Settings()
    judged = [each.is_right for each in rewrites if each.is_right is not None]
    edges = bin_edges(traces)
    last = hazard([len(trace.scores) for trace in traces], settings)
    large_tokens = mean_tokens(traces, Author.LARGE, len(last), settings)
    model = Model(
        small_accuracy=accuracy_of(traces, Author.SMALL),
        final_accuracy=final_accuracy(traces, settings),
        rewrite_accuracy=rewrite_accuracy(traces, judged, settings),
        last=last,
        small_tokens=mean_tokens(traces, Author.SMALL, len(last), settings),
        large_tokens=large_tokens,
        rewrite_tokens=token_line(rewrites, otherwise=float(large_tokens.mean())),
        edges=edges,
        observed=densities(traces, edges, settings),
    )
    counts = {
        "solutions": len(traces),
        "steps": sum(len(trace.scores) for trace in traces),
        "rewrites": len(rewrites),
        "judged_rewrites": len(judged),
    }
    card["data"] = {**card["data"], **counts}
    return Artefact.make(model.arrays(), policy=Pomdp.name, settings=settings.model_dump(), **card)


def accuracy_of(traces: Iterable[Trace], author: Author) -> float:
    """Estimate how often an author's step is right after right ones: 1 - first errors / steps up to the first error.

    Raises:
        ValueError: There is no such step.
    """
    steps = errors = 0
    for trace in traces:
        judged = trace.authors[: trace.judged]
        steps += judged.count(author)
        errors += trace.first_error is not None and judged[-1] is author
    if not steps:
        raise ValueError(
            f"the traces hold no step of the {author} model up to a first error; collect some of both models"
        )
    return 1 - errors / steps


def final_accuracy(traces: Sequence[Trace], settings: Settings) -> float:
    """Estimate the accuracy of drafts that finish solutions, drawn towards that of all drafts.

    Raises:
        ValueError: There is no draft.
    """
    final = [trace for trace in traces if trace.judged == len(trace.scores) and trace.authors[-1] is Author.SMALL]
    right = sum(trace.first_error is None for trace in final)
    return (right + settings.strength * accuracy_of(traces, Author.SMALL)) / (len(final) + settings.strength)


def rewrite_accuracy(traces: Sequence[Trace], judged: Sequence[bool], settings: Settings) -> float:
    """Estimate the accuracy of large steps in place of drafts, drawn towards that of all large steps.

    Args:
        traces: Solutions with steps of the large model.
        judged: Whether each large step in place of a wrong draft is right.
        settings: Settings of the fit.

    Raises:
        ValueError: There is no large step.
    """
    among_all = accuracy_of(traces, Author.LARGE)
    return (sum(judged) + settings.strength * among_all) / (len(judged) + settings.strength)


def hazard(lengths: Sequence[int], settings: Settings) -> Floats:
    """Estimate by index how often a step is the last one of a solution that has no earlier end.

    Each estimate is drawn towards the mean over all steps, the more the fewer solutions are that long. The first one is
    not if no solution has a single step: then none is expected. The last one is 1.
    """
    horizon = min(max(lengths), settings.max_steps)
    ended = np.bincount(np.minimum(lengths, horizon), minlength=horizon + 1)[1:].astype(np.float64)
    reached = ended[::-1].cumsum()[::-1]
    found: Floats = (ended + settings.strength * ended.sum() / reached.sum()) / (reached + settings.strength)
    if ended[0] == 0:
        found[0] = 0.0
    found[-1] = 1.0
    return found


def mean_tokens(traces: Iterable[Trace], author: Author, horizon: int, settings: Settings) -> Floats:
    """Estimate the mean tokens of an author's steps by index, each drawn towards the mean over all steps.

    Raises:
        ValueError: The author has no step.
    """
    total, count = np.zeros(horizon), np.zeros(horizon)
    for trace in traces:
        for index, (tokens, written_by) in enumerate(zip(trace.tokens, trace.authors, strict=True)):
            if written_by is author:
                total[min(index, horizon - 1)] += tokens
                count[min(index, horizon - 1)] += 1
    if not count.any():
        raise ValueError(f"the traces hold no step of the {author} model; collect some of both models")
    mean: Floats = (total + settings.strength * total.sum() / count.sum()) / (count + settings.strength)
    return mean


def token_line(rewrites: Sequence[Rewrite], *, otherwise: float) -> Floats:
    """Estimate the tokens of a large step as a line over those of the draft that it replaces: intercept and slope.

    A line of least squares; neither number is negative, because no draft may lead to expect a large step of no tokens.

    Args:
        rewrites: The steps.
        otherwise: Tokens to expect of all large steps where there are no rewrites.
    """
    if not rewrites:
        return np.array([otherwise, 0.0])
    drafts, large = (
        np.array([getattr(each, name) for each in rewrites], np.float64) for name in ("draft_tokens", "tokens")
    )
    apart = drafts - drafts.mean()
    slope = float(apart @ large) / max(float(apart @ apart), 1.0)
    intercept = float(large.mean() - slope * drafts.mean())
    if slope <= 0:
        return np.array([large.mean(), 0.0])
    if intercept < 0:
        return np.array([0.0, float(drafts @ large) / float(drafts @ drafts)])
    return np.array([intercept, slope])


def bin_edges(traces: Iterable[Trace]) -> Floats:
    """Choose the borders of the bins of a score, (21,): at equal distances in log-odds, between the scores found.

    A PRM separates its states at the ends of the unit interval: between 0.95 and 0.995 there may be most right steps
    and a fifth of the errors. Bins of equal width would hide that.
    """
    scores = np.array([score for trace in traces for score in trace.scores])
    odds = np.clip(scores, *CERTAIN)
    low, high = np.quantile(np.log(odds / (1 - odds)), OUTER)
    edges: Floats = 1 / (1 + np.exp(-np.linspace(low, max(high, low + 1), BINS + 1)))
    edges[[0, -1]] = 0.0, 1.0
    return edges


def densities(traces: Iterable[Trace], edges: Floats, settings: Settings) -> Floats:
    """Estimate the probability of each bin of (least earlier score, score) in each state: shape (3, 20, 20).

    Counts by bin are smoothed with a Gaussian that is reflected at the borders of the unit square.

    Raises:
        ValueError: A state does not occur.
    """
    counts = np.zeros((STATES, BINS, BINS))
    for trace in traces:
        found = np.searchsorted(edges[1:-1], trace.scores, side="right")
        least = accumulate(found, min, initial=BINS - 1)
        for index, cell in enumerate(zip(least, found, strict=False)):
            counts[(_state(trace, index), *cell)] += 1
    seen = counts.sum(axis=(1, 2), keepdims=True)
    for words, number in zip(IN_WORDS, seen.ravel(), strict=True):
        if not number:
            raise ValueError(f"no trace holds {words}; collect more solutions, right ones and wrong ones")
    kernel = _reflected_gaussian(settings.bandwidth / BINS)
    smooth = np.maximum(kernel.T @ (counts / seen) @ kernel, settings.floor)
    observed: Floats = smooth / smooth.sum(axis=(1, 2), keepdims=True)
    return observed


def _state(trace: Trace, index: int) -> int:
    if trace.first_error is None or index < trace.first_error:
        return RIGHT
    return STEP_WRONG if index == trace.first_error else PREFIX_WRONG


def _reflected_gaussian(bandwidth: float) -> Floats:
    """Return how the mass of each bin spreads over all bins; each row adds up to 1.

    What leaves the unit interval on one side is reflected back into it; what would cross it whole is left out.
    """
    centres = (np.arange(BINS) + 0.5) / BINS
    images = np.stack([centres, -centres, 2 - centres])
    weights = np.exp(-0.5 * ((centres - images[..., np.newaxis]) / bandwidth) ** 2).sum(axis=0)
    kernel: Floats = weights / weights.sum(axis=1, keepdims=True)
    return kernel
