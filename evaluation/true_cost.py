"""What a problem costs when every model counts: the tokens that each computes, times the size of the model.

The paper counts the tokens that the large model decodes. Input costs as much computation per token as output, and the
small model and the PRM compute too.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Tokens that each model computed, output and input that no cache held; or the price of one token of each."""

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

    def cost(self, ledger: Ledger) -> float:
        """Compute what a problem cost; these are the prices of one token of each model.

        A model's number of parameters as its price gives its computation.
        """
        computed = Computed.of(ledger)
        return self.small * computed.small + self.prm * computed.prm + self.large * computed.large
