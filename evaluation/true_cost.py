"""What a problem costs when every model counts: the tokens that each computes, times the size of the model.

The paper counts the tokens that the large model decodes. Input costs as much computation per token as output, and the
small model and the PRM compute too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from shared.domain.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Tokens that each model computed, output and input that no cache held; or what they cost."""

    small: float
    prm: float
    large: float

    @classmethod
    def of(cls, ledger: Ledger) -> Computed:
        """Add up what a problem's ledger has of each model; estimated counts are left out."""
        return cls(
            small=ledger.small_in + ledger.small_kept + ledger.small_discarded + ledger.small_wasted,
            prm=ledger.prm_tokens,
            large=ledger.large_in + ledger.large_out + ledger.large_wasted,
        )

    @property
    def total(self) -> float:
        """Sum over the models."""
        return self.small + self.prm + self.large


def mean_cost(computed: Sequence[Computed], prices: Computed) -> Computed:
    """Compute the mean cost of a problem by model.

    Args:
        computed: What the models computed for each problem.
        prices: Price of one token of each model. A model's number of parameters gives its computation.
    """
    return Computed(
        small=prices.small * fmean(each.small for each in computed),
        prm=prices.prm * fmean(each.prm for each in computed),
        large=prices.large * fmean(each.large for each in computed),
    )
