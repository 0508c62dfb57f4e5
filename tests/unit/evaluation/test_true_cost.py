"""What a problem costs when every model counts."""

from __future__ import annotations

from evaluation.true_cost import Computed, mean_cost
from shared.domain.ledger import Ledger


def test_output_and_input_of_each_model_are_computed_tokens() -> None:
    ledger = Ledger(
        small_kept=1, small_discarded=2, small_wasted=4, small_in=8, large_out=16, large_wasted=32, large_in=64,
        prm_tokens=128, small_estimated=999, large_estimated=999, prm_estimated=999,
    )  # fmt: skip
    assert Computed.of(ledger) == Computed(small=15, prm=128, large=112)


def test_the_mean_cost_is_by_model_and_in_its_price() -> None:
    computed = [Computed(small=10, prm=0, large=1), Computed(small=20, prm=4, large=3)]
    cost = mean_cost(computed, Computed(small=1, prm=10, large=100))
    assert cost == Computed(small=15, prm=20, large=200)
    assert cost.total == 235
