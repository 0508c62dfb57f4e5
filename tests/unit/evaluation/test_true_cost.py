"""What a problem costs when every model counts."""

from __future__ import annotations

from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger


def test_output_and_input_of_each_model_are_computed_tokens() -> None:
    ledger = Ledger(
        small_kept=1, small_discarded=2, small_wasted=4, small_in=8, large_out=16, large_wasted=32, large_in=64,
        prm_tokens=128, small_estimated=999, large_estimated=999, prm_estimated=999,
    )  # fmt: skip
    assert Computed.of(ledger) == Computed(small=15, prm=128, large=112)


def test_a_cost_is_the_sum_over_the_models_of_tokens_times_price() -> None:
    ledger = Ledger(small_kept=10, small_in=5, prm_tokens=4, large_out=2, large_in=1)
    assert Computed(small=1, prm=10, large=100).cost(ledger) == 15 + 40 + 300
