"""The model of the policy `pomdp`: read as it was written, refused when it cannot be one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.domain.roles import Author
from shared.policies.artefact import BadArtefact, Floats
from shared.policies.pomdp.model import BINS, Model
from tests.unit.policies.pomdp_models import artefact_of, make_model, released_model


def test_a_model_is_read_as_it_was_written() -> None:
    made = released_model()
    read = Model.read(artefact_of(made))
    assert {name: array.tolist() for name, array in read.arrays().items()} == {
        name: array.tolist() for name, array in made.arrays().items()
    }
    assert read.horizon == 30


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("last", None, "no array 'last'"),
        ("last", np.array([0.0, 0.25, 0.5]), "'last' should end with 1"),
        ("last", np.array([-0.1, 0.25, 1.0]), "'last' should hold probabilities"),
        ("last", np.array([0.0, 1.5, 1.0]), "'last' should hold probabilities"),
        ("last", np.array([0.0, 1.0]), "'small_tokens' .* should hold 2 finite numbers"),
        ("small_accuracy", np.array(1.01), "'small_accuracy' should be a probability"),
        ("small_accuracy", np.array([0.5]), "'small_accuracy'"),
        ("final_accuracy", np.array(-0.5), "'final_accuracy' should be a probability"),
        ("rewrite_accuracy", np.array(-0.01), "'rewrite_accuracy' should be a probability"),
        ("rewrite_accuracy", np.array(np.nan), "finite"),
        ("small_tokens", np.array([1.0, 0.0, 1.0]), "'small_tokens' should hold numbers above 0"),
        ("large_tokens", np.array([1.0, -1.0, 1.0]), "'large_tokens' should hold numbers above 0"),
        ("large_tokens", np.array([1.0, 1e300, 1.0]), "'large_tokens' should hold numbers above 0, at most 1e"),
        ("small_tokens", np.array([1.0, 1e300, 1.0]), "'small_tokens' should hold numbers above 0, at most 1e"),
        ("large_tokens", np.ones(2), "should hold 3 finite numbers"),
        ("rewrite_tokens", np.array([-1.0, 1.0]), "'rewrite_tokens' should hold numbers from 0 to"),
        ("rewrite_tokens", np.array([0.0, 0.0]), "'rewrite_tokens' should hold .* not both 0"),
        ("edges", np.linspace(0, 0.9, BINS + 1), "'edges' should begin with 0 and end with 1"),
        ("edges", np.array([0.0] * 10 + [1.0] * 11), "'edges' should rise"),
        ("edges", np.r_[0.0, np.tile([1e308, -1e308], 9), 0.5, 1.0], "'edges' should rise"),
        ("observed", np.full((3, BINS, BINS), 1e308), "'observed' should hold probabilities"),
        ("observed", np.full((3, BINS, BINS), 1.0), "'observed' should integrate to 1"),
        ("observed", np.full((3, BINS, BINS), 1.001) / BINS**2, "'observed' should integrate to 1"),
        ("observed", np.full((2, BINS, BINS), 1.0) / BINS**2, "should hold 3x20x20 finite numbers"),
        ("observed", np.eye(BINS)[np.newaxis].repeat(3, axis=0) / BINS, "'observed' should hold .* at least 1e-12"),
        ("observed", np.maximum(np.eye(BINS) / BINS, 5e-324)[np.newaxis].repeat(3, axis=0), "of at least 1e-12"),
    ],
)
def test_an_artefact_that_holds_no_model_is_refused_and_the_array_named(
    name: str, array: Floats | None, said: str
) -> None:
    with pytest.raises(BadArtefact, match=said):
        Model.read(artefact_of(make_model(), **{name: array}))


def test_a_model_without_any_step_is_refused() -> None:
    none = np.empty(0)
    with pytest.raises(BadArtefact, match="'last' should end with 1"):
        Model.read(artefact_of(make_model(), last=none, small_tokens=none, large_tokens=none))


def test_a_horizon_that_planning_takes_too_long_for_is_refused() -> None:
    long = np.ones(1001)
    with pytest.raises(BadArtefact, match="'last' should hold at most 1000 numbers"):
        Model.read(artefact_of(make_model(), last=long, small_tokens=long, large_tokens=long))


@pytest.mark.parametrize(("score", "found"), [(0.0, 0), (0.0499, 0), (0.05, 1), (0.5, 10), (0.9999, 19), (1.0, 19)])
def test_every_score_has_a_bin(score: float, found: int) -> None:
    assert released_model().bin_of(score) == found


def test_the_likelihood_of_a_score_alone_is_that_of_all_earlier_ones_together() -> None:
    model = released_model()
    alone = model.likelihood(0.97)
    together = [model.joint_likelihood(least, 0.97) for least in np.arange(0.025, 1, 0.05)]
    assert alone == pytest.approx(np.sum(together, axis=0))
    assert alone.right == model.scored[0, 19]
    assert model.joint_likelihood(1.0, 0.97).step_wrong == model.observed[2, 19, 19]


def test_steps_beyond_the_horizon_share_the_last_place() -> None:
    model = make_model()
    assert [model.place(step) for step in (0, 2, 3, 99)] == [0, 2, 2, 2]
    assert (model.accuracy(Author.SMALL), model.accuracy(Author.LARGE)) == (0.75, 0.9)
    model = replace(model, final_accuracy=0.99)
    assert [model.draft_accuracy(is_final=is_final) for is_final in (False, True)] == [0.75, 0.99]


def test_bins_may_be_narrow_where_scores_are_many() -> None:
    edges = np.concatenate([np.linspace(0, 0.9, 10), np.linspace(0.91, 1, 11)])
    model = replace(make_model(), edges=edges)
    assert [model.bin_of(score) for score in (0.0, 0.89, 0.905, 0.955, 1.0)] == [0, 8, 9, 14, 19]


def test_the_tokens_of_a_draft_tell_those_of_the_large_step() -> None:
    model = replace(make_model(large_tokens=20.0), rewrite_tokens=np.array([3.0, 0.5]))
    assert (model.rewritten(0, 40), model.rewritten(0, 0), model.rewritten(99, None)) == (23.0, 3.0, 20.0)
