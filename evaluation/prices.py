"""Price tables: what a token of each kind costs, so that a problem has a true cost in money."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.domain.ledger import Ledger
from shared.errors import PermanentError

MAX_PRICE: Final = 1e9
"""Largest price of a token: sums over any number of tokens stay finite."""

Price = Annotated[float, Field(ge=0, le=MAX_PRICE)]
"""Price of one token, in any currency."""


class BadPrices(PermanentError):
    """The price table is wrong; give the prices of `small`, `large` and `prm`, none negative, in JSON or TOML."""

    code = "bad_prices"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class SmallPrices(_Table):
    """Prices of the small model."""

    input: Price
    """Of input that no cache held."""
    output: Price
    """Of output in steps of the solution."""
    discarded: Price | None = None
    """Of output in drafts that were escalated; by default that of other output."""
    wasted: Price | None = None
    """Of output that was never decided on; by default that of other output."""


class LargePrices(_Table):
    """Prices of the large model."""

    input: Price
    output: Price
    wasted: Price | None = None


class PrmPrices(_Table):
    """Price of the PRM, which reads only."""

    input: Price


class Prices(_Table):
    """Prices of one token by model and kind."""

    small: SmallPrices
    large: LargePrices
    prm: PrmPrices

    def cost(self, ledger: Ledger) -> float:
        """Compute what a problem cost; estimated counts are left out."""
        small, large = self.small, self.large
        return (
            small.input * ledger.small_in
            + small.output * ledger.small_kept
            + _or(small.discarded, small.output) * ledger.small_discarded
            + _or(small.wasted, small.output) * ledger.small_wasted
            + large.input * ledger.large_in
            + large.output * ledger.large_out
            + _or(large.wasted, large.output) * ledger.large_wasted
            + self.prm.input * ledger.prm_tokens
        )


def read_prices(path: Path) -> Prices:
    """Read a price table from JSON, or from TOML if the file's name ends with `.toml`, in any case.

    Raises:
        BadPrices: The file cannot be read, or a price is missing, negative, huge or of an unknown kind.
    """
    is_toml = path.suffix.lower() == ".toml"
    try:
        text = path.read_text(encoding="utf-8-sig")
        return Prices.model_validate(tomllib.loads(text) if is_toml else json.loads(text))
    except OSError as error:
        raise BadPrices(f"{path} cannot be read ({error.strerror}); name a price table.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the table"
        raise BadPrices(
            f"{path}, {place}: {first['msg']}; give the price of one token, from 0 to {MAX_PRICE:g}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadPrices(f"{path} is no {'TOML' if is_toml else 'JSON'} in UTF-8; correct it.") from error


def _or(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price
