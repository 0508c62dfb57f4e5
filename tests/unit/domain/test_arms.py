"""The draw of an arm: in proportion to the weights, and the same for the same problem."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from shared.domain import arms
from shared.domain.arms import draw_arm

IDS = [UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + number) for number in range(20_000)]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (9.0, 1.0), (0.2, 0.5, 0.3), (1e-9, 1e6)])
def test_arms_are_drawn_in_proportion_to_their_weights(weights: tuple[float, ...]) -> None:
    drawn = Counter(draw_arm(weights, each) for each in IDS)
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        # Four standard errors.
        assert drawn[place] / len(IDS) == pytest.approx(share, abs=4 * (share * (1 - share) / len(IDS)) ** 0.5)


def test_a_problem_gets_the_same_arm_whenever_it_is_drawn() -> None:
    weights = (0.3, 0.3, 0.4)
    assert [draw_arm(weights, each) for each in IDS[:8]] == [2, 2, 2, 0, 2, 0, 1, 2]
    assert [draw_arm([3, 3, 4], each) for each in IDS] == [draw_arm(weights, each) for each in IDS]


def test_the_only_arm_is_always_drawn() -> None:
    assert {draw_arm([0.1], each) for each in IDS[:100]} == {0}


def test_a_lot_that_rounds_up_to_the_sum_of_the_weights_draws_the_last_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "bisect_right", lambda bounds, _lot: len(bounds))
    assert draw_arm((1.0, 2.0), IDS[0]) == 1
