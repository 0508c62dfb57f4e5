from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import (
    Baselines,
    Point,
    Result,
    accuracy,
    area_recovered,
    area_under_curve,
    cost_to_recover,
    envelope,
    percentile,
)

shares = st.floats(0.0, 1.0)
points = st.lists(st.builds(Point, shares, shares), max_size=8)


def results(solved: str, tokens: Sequence[int] | None = None) -> list[Result]:
    spent = tokens or [0] * len(solved)
    return [Result(is_solved=mark == "+", large_tokens=count) for mark, count in zip(solved, spent, strict=True)]


BASE = Baselines(small=results("++--------"), large=results("+++++++---", [100] * 10))


def test_the_baselines_are_the_corners_of_the_plane() -> None:
    assert BASE.point(BASE.small) == Point(0.0, 0.0)
    assert BASE.point(BASE.large) == Point(1.0, 1.0)


def test_a_policy_is_placed_by_its_tokens_and_by_the_gap_that_it_closes() -> None:
    routed = results("++++++----", [50, 0, 0, 0, 0, 0, 0, 0, 0, 150])
    assert accuracy(routed) == 0.6
    assert BASE.point(routed) == Point(0.2, pytest.approx(0.8))  # type: ignore[arg-type]


def test_benefit_is_accuracy_gained_per_large_token_and_its_gain_is_recovery_over_share() -> None:
    routed = results("++++++----", [50, 0, 0, 0, 0, 0, 0, 0, 0, 150])
    assert BASE.benefit(routed) == pytest.approx(0.4 / 20)
    assert BASE.relative_benefit(routed) == pytest.approx(0.8 / 0.2 - 1)
    assert BASE.relative_benefit(BASE.large) == 0


def test_metrics_with_a_zero_denominator_are_refused() -> None:
    with pytest.raises(ValueError, match="no gap"):
        Baselines(small=BASE.large, large=BASE.small).gap_recovered(BASE.small)
    with pytest.raises(ValueError, match="spent no tokens"):
        Baselines(small=BASE.small, large=BASE.small).share(BASE.large)
    with pytest.raises(ValueError, match="benefit per token is undefined"):
        BASE.benefit(BASE.small)


def test_the_cost_to_recover_is_read_between_the_policies_that_surround_it() -> None:
    curve = [Point(0.1, 0.8), Point(0.2, 1.0)]
    assert cost_to_recover(curve, 0.9) == pytest.approx(0.15)
    assert cost_to_recover(curve, 0.8) == pytest.approx(0.1)
    assert cost_to_recover(curve, 0.4) == pytest.approx(0.05)


def test_without_policies_the_cost_lies_on_the_line_between_the_baselines() -> None:
    assert cost_to_recover([], 0.95) == pytest.approx(0.95)
    assert cost_to_recover([], 0.0) == 0.0


def test_a_dominated_policy_changes_nothing() -> None:
    good = Point(0.1, 0.9)
    assert envelope([good, Point(0.3, 0.7), Point(0.1, 0.5)]) == [Point(0, 0), good, Point(1, 1)]


def test_the_area_of_a_perfect_policy_is_nearly_one_and_of_none_a_half() -> None:
    assert area_recovered([]) == pytest.approx(0.5)
    assert area_recovered([Point(0.0, 1.0)]) == pytest.approx(1.0)
    assert area_recovered([Point(0.5, 1.0)]) == pytest.approx(0.75)


@given(points, shares, shares)
def test_recovering_more_never_costs_less(curve: list[Point], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert cost_to_recover(curve, low) <= cost_to_recover(curve, high) + 1e-12


@given(points, st.builds(Point, shares, shares), shares)
def test_one_policy_more_never_makes_the_curve_worse(curve: list[Point], more: Point, target: float) -> None:
    best = max([point.recovered for point in curve if point.share <= more.share], default=0.0)
    if more.recovered < best:  # it is dominated, and the curve is what it was
        assert envelope([*curve, more]) == envelope(curve)
    assert envelope([*curve, more])[-1].recovered >= envelope(curve)[-1].recovered


def test_the_area_under_the_curve_counts_pairs() -> None:
    assert area_under_curve([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert area_under_curve([0.1], [0.9]) == 0.0
    assert area_under_curve([0.5, 0.9], [0.5]) == 0.75


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_the_area_under_the_curve_is_what_counting_each_pair_gives(above: list[int], below: list[int]) -> None:
    counted = sum((a > b) + (a == b) / 2 for a in above for b in below) / (len(above) * len(below))
    assert area_under_curve(above, below) == pytest.approx(counted)


def test_an_area_of_one_kind_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        area_under_curve([0.5], [])


@pytest.mark.parametrize(("part", "expected"), [(0, 1), (0.5, 2.5), (0.9, 3.7), (1, 4)])
def test_a_percentile_is_linear_between_values(part: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], part) == pytest.approx(expected)


def test_a_percentile_needs_values() -> None:
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 0.5)
