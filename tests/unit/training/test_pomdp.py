"""Fitting the model of the policy `pomdp`: by hand on few steps, and back from solutions that a known model drew."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Observation
from shared.domain.roles import Author
from shared.policies.artefact import Floats
from shared.policies.pomdp.model import Model
from shared.policies.pomdp.policy import Pomdp
from tests.unit.policies.pomdp_models import released_model
from training.pomdp import (
    Settings,
    accuracy_of,
    bin_edges,
    densities,
    final_accuracy,
    fit,
    hazard,
    mean_tokens,
    token_line,
)
from training.pomdp_simulation import draw_traces
from training.traces import Rewrite, Trace

SMALL, LARGE = Author.SMALL, Author.LARGE

CARD: dict[str, Any] = {
    "models": ModelIds(small="small@1", large="large@1", prm="prm@1"),
    "data": {"split": "train"},
    "metrics": {},
    "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    "command": "trim policies fit pomdp",
}


def solution(
    *scores: float, first_error: int | None = None, large: tuple[int, ...] = (), tokens: tuple[int, ...] | None = None
) -> Trace:
    return Trace(
        question="What?",
        scores=scores,
        tokens=tokens or (10,) * len(scores),
        authors=tuple(LARGE if index in large else SMALL for index in range(len(scores))),
        first_error=first_error,
    )


SOLUTIONS = [
    solution(0.9, 0.9, large=(1,)),
    solution(0.9, 0.2, 0.3, first_error=1),
    solution(0.1, 0.8, first_error=0, large=(0,)),
]
"""Small solutions that show all states and both authors."""


EVEN = np.arange(21) / 20
"""Borders of bins of equal width."""

RIGHT_REWRITE = Rewrite(draft_tokens=10, tokens=12, is_right=True)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_an_accuracy_counts_an_authors_steps_up_to_the_first_error() -> None:
    assert accuracy_of(SOLUTIONS, SMALL) == 1 - 1 / 3
    assert accuracy_of(SOLUTIONS, LARGE) == 1 - 1 / 2


def test_the_accuracy_of_final_drafts_is_drawn_towards_that_of_all_drafts() -> None:
    traces = [
        solution(0.9, 0.9, 0.9, large=(0,)),
        solution(0.9, 0.9, 0.1, first_error=2),
        solution(0.9, 0.1, 0.9, first_error=1),
        solution(0.1, 0.9, first_error=0),
    ]
    exact = Settings(strength=1e-9)
    assert final_accuracy(traces, exact) == pytest.approx(1 / 2), "steps after the first error tell nothing"
    assert final_accuracy(traces, Settings(strength=3.0)) == pytest.approx((1 + 3 * 5 / 8) / 5)


def test_the_hazard_is_the_share_that_ends_of_those_that_got_there() -> None:
    found = hazard([2] * 30 + [3] * 10 + [4] * 10, Settings(strength=1e-9))
    assert found == pytest.approx([0.0, 30 / 50, 10 / 20, 1.0])


def test_the_hazard_of_rare_lengths_is_drawn_towards_the_mean() -> None:
    mean = 101 / (100 * 2 + 5)
    assert hazard([2] * 100 + [5], Settings(strength=2.0)) == pytest.approx(
        [0.0, (100 + 2 * mean) / 103, *[2 * mean / 3] * 2, 1.0]
    )


def test_a_first_step_may_be_the_last_only_if_some_solution_shows_it() -> None:
    assert hazard([2, 3], Settings())[0] == 0
    assert 0 < hazard([1, 2, 3], Settings())[0] < 1


def test_if_all_solutions_have_two_steps_the_second_is_the_last() -> None:
    assert hazard([2, 2, 2], Settings()).tolist() == [0.0, 1.0]


def test_longer_solutions_count_as_solutions_of_the_horizon() -> None:
    assert hazard([1, 2, 3, 9], Settings(max_steps=3, strength=1e-9)) == pytest.approx([1 / 4, 1 / 3, 1.0])


def test_tokens_are_means_by_author_and_index() -> None:
    traces = [solution(0.9, 0.9, 0.9, large=(1,), tokens=(10, 40, 30)), solution(0.9, 0.9, tokens=(20, 60))]
    exact = Settings(strength=1e-9)
    assert mean_tokens(traces, SMALL, 3, exact) == pytest.approx([15, 60, 30])
    assert mean_tokens(traces, LARGE, 3, exact) == pytest.approx([40, 40, 40]), "the mean, where nothing is known"
    assert mean_tokens(traces, SMALL, 2, exact) == pytest.approx([15, 45]), "later steps count at the horizon"


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        ([(10, 15), (30, 25)], (10.0, 0.5)),
        ([(10, 5), (20, 15)], (0.0, 0.7)),
        ([(10, 25), (30, 15)], (20.0, 0.0)),
        ([(10, 20), (10, 30)], (25.0, 0.0)),
        ([], (7.0, 0.0)),
    ],
)
def test_a_line_tells_the_tokens_of_a_large_step_from_those_of_its_draft(
    pairs: list[tuple[int, int]], line: tuple[float, float]
) -> None:
    rewrites = [Rewrite(draft_tokens=draft, tokens=tokens, is_right=None) for draft, tokens in pairs]
    assert token_line(rewrites, otherwise=7.0) == pytest.approx(line)


def test_bins_are_narrow_where_a_prm_is_sure() -> None:
    edges = bin_edges([solution(*(1 / (1 + np.exp(-np.linspace(-6, 6, 41)))), large=(1,))])
    assert (edges[0], edges[10], edges[-1]) == pytest.approx((0, 0.5, 1))
    assert np.diff(np.log(edges[1:-1] / (1 - edges[1:-1]))) == pytest.approx(np.full(18, 0.6), rel=0.01)


@pytest.mark.parametrize("scores", [(1.0, 1.0), (0.0, 0.0), (0.3, 0.3), (0.0, 1.0)])
def test_bins_rise_whatever_the_scores_are(scores: tuple[float, ...]) -> None:
    edges = bin_edges([solution(*scores)])
    assert (np.diff(edges) > 0).all()


def test_each_step_is_counted_in_its_state_beside_the_least_score_before_it() -> None:
    sharp = densities(SOLUTIONS, EVEN, Settings(bandwidth=0.02))
    assert np.argwhere(sharp > 0.01).tolist() == [
        [0, 18, 18],
        [0, 19, 18],
        [1, 2, 16],
        [1, 4, 6],
        [2, 18, 4],
        [2, 19, 2],
    ]
    assert sharp[0, 19, 18] == pytest.approx(2 / 3)


def test_a_density_is_smooth_within_the_unit_square_and_nowhere_zero() -> None:
    corner = densities([solution(0.0, 0.0, first_error=0), solution(1.0)], EVEN, Settings(bandwidth=2.0, floor=1e-7))
    assert corner.sum(axis=(1, 2)) == pytest.approx([1.0, 1.0, 1.0])
    assert corner.min() == pytest.approx(1e-7, rel=1e-3)
    right = corner[0].sum(axis=0)
    assert (np.diff(right[8:]) > 0).all()
    assert right[15:].sum() > 0.98, "what leaves the square is reflected into it"
    assert np.allclose(corner[1, ::-1, ::-1].T, corner[0]), "all borders reflect alike"


@pytest.mark.parametrize(
    ("traces", "said"),
    [
        ([solution(0.9), solution(0.1, 0.8, first_error=0)], "no step of the large model"),
        ([solution(0.9, large=(0,)), solution(0.1, 0.8, first_error=0, large=(0, 1))], "no step of the small model"),
        ([solution(0.9, 0.9, large=(1,)), solution(0.2, first_error=0)], "no trace holds a step after the first error"),
        ([solution(0.9, 0.9, large=(1,))], "no trace holds a step after the first error"),
        ([solution(0.2, 0.9, first_error=0, large=(1,))], "no step of the large model up to a first error"),
        ([solution(0.2, 0.9, first_error=0, large=large) for large in ((0,), ())], "no trace holds a right step"),
        ([], "no traces"),
    ],
)
def test_traces_that_lack_what_an_estimate_needs_are_refused(traces: list[Trace], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(traces, rewrites=[RIGHT_REWRITE], **CARD)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_fit_finds_the_model_that_drew_the_solutions() -> None:
    drawn_from = released_model()
    traces = [
        *draw_traces(drawn_from, SMALL, solutions=4000, seed=1),
        *draw_traces(drawn_from, LARGE, solutions=1000, seed=2),
    ]
    artefact = fit(traces, settings=Settings(bandwidth=0.4), **CARD)
    found = Model.read(artefact)
    assert found.small_accuracy == pytest.approx(drawn_from.small_accuracy, abs=0.01)
    assert found.final_accuracy == pytest.approx(drawn_from.final_accuracy, abs=0.03)
    assert found.rewrite_accuracy == pytest.approx(drawn_from.rewrite_accuracy, abs=0.01)
    assert found.last[:12] == pytest.approx(drawn_from.last[:12], abs=0.04)
    assert found.large_tokens[:8] == pytest.approx(drawn_from.large_tokens[:8], rel=0.02)
    assert np.abs(_up_to(found) - _up_to(drawn_from)).max() < 0.05
    assert artefact.card.data == {
        "split": "train",
        "solutions": 5000,
        "steps": sum(len(trace.scores) for trace in traces),
        "rewrites": 0,
        "judged_rewrites": 0,
    }


def _up_to(model: Model) -> Floats:
    """Return the share of the scores in each state that are below each tenth."""
    shares = np.hstack([np.zeros((3, 1)), model.scored.cumsum(axis=1)])
    return np.array([np.interp(np.linspace(0, 1, 11), model.edges, each) for each in shares])


def test_rewrites_of_wrong_drafts_give_the_accuracy_of_a_large_step() -> None:
    rewrites = [replace(RIGHT_REWRITE, is_right=is_right) for is_right in (True, True, True, False, None)]
    artefact = fit(SOLUTIONS, rewrites=rewrites, settings=Settings(strength=1e-9), **CARD)
    assert Model.read(artefact).rewrite_accuracy == pytest.approx(0.75)
    assert (artefact.card.data["rewrites"], artefact.card.data["judged_rewrites"]) == (5, 4)


def test_the_accuracy_of_few_rewrites_is_drawn_towards_that_of_all_large_steps() -> None:
    of_all = accuracy_of(SOLUTIONS, LARGE)
    one_wrong = fit(SOLUTIONS, rewrites=[replace(RIGHT_REWRITE, is_right=False)], **CARD)
    assert Model.read(one_wrong).rewrite_accuracy == pytest.approx(5 * of_all / 6)
    assert Model.read(fit(SOLUTIONS, **CARD)).rewrite_accuracy == pytest.approx(of_all)


def test_the_same_solutions_give_the_same_artefact_and_a_policy_decides_with_it() -> None:
    artefact = fit(SOLUTIONS, **CARD)
    assert artefact.digest == fit(SOLUTIONS, **CARD).digest
    assert artefact.card.settings == Settings().model_dump()
    assert Pomdp().fitted(artefact).decide(Observation(step=0, score=0.1)).value is not None


def test_drawn_solutions_are_the_same_for_the_same_seed_and_fit_the_model() -> None:
    model = released_model()
    traces = draw_traces(model, LARGE, solutions=50, seed=3)
    assert traces == draw_traces(model, LARGE, solutions=50, seed=3)
    assert traces != draw_traces(model, LARGE, solutions=50, seed=4)
    assert all(0 <= score < 1 for trace in traces for score in trace.scores)
    assert {len(trace.scores) for trace in traces} <= set(range(1, 31))
