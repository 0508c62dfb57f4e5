"""The one setting of each policy that trades accuracy for large tokens, and the values of it that are worth a try.

A setting is worth a try where it divides the decisions that a policy takes. So the values are quantiles of the numbers
that it compares with its setting, taken from decisions on the problems at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shared.domain.decisions import Decision
from shared.policies.cascade import Cascade
from shared.policies.confidence import Confidence
from shared.policies.learned.aggregate import AggregatePolicy
from shared.policies.learned.sequence import SequencePolicy
from shared.policies.pomdp.policy import Pomdp
from shared.policies.threshold import Threshold

LEAST: Final = math.ulp(0.0)
"""Least threshold above 0: with it policies read scores, and escalate none but 0."""

PRICES: Final = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Prices of a large token that are always tried, also where no decision of the probe would change between them: from
free to the worth of a right answer."""

LEAST_PRICE: Final = 1e-6
"""Least price of a large token that is tried: a right answer is worth a million tokens."""


@dataclass(frozen=True, kw_only=True)
class Dial:
    """The setting of a policy that trades accuracy for large tokens."""

    parameter: str
    """Name of the parameter."""
    probe: Mapping[str, Any] | None
    """Parameters with which a policy shows the numbers that the setting is compared with; `None` if the setting is a
    quantile itself."""
    level_of: Callable[[Decision], float | None]
    """Finds the setting at which a decision would change."""
    ends: Sequence[float] = ()
    """Values that are always tried."""


def _value(decision: Decision) -> float | None:
    return decision.value


def _break_even_price(decision: Decision) -> float | None:
    """Return the price of a large token at which the gain of a large step equals its price.

    The gain depends on the price of later steps too, so this is a first approximation; all that it decides is which
    prices are tried.
    """
    if decision.value is None or not decision.compared_with:
        return None
    price = decision.value / decision.compared_with * Pomdp().large_token_price
    return price if price >= LEAST_PRICE else None


_THRESHOLD: Final = Dial(parameter="threshold", probe={"threshold": LEAST}, level_of=_value, ends=(0.0, 1.0))
_SHARE: Final = Dial(parameter="escalate_share", probe=None, level_of=_value, ends=(0.001, 0.999))

DIALS: Final[Mapping[str, Dial]] = {
    Threshold.name: _THRESHOLD,
    Cascade.name: _THRESHOLD,
    Confidence.name: Dial(parameter="threshold", probe={"threshold": LEAST}, level_of=_value, ends=(LEAST, 1.0)),
    AggregatePolicy.name: _SHARE,
    SequencePolicy.name: _SHARE,
    Pomdp.name: Dial(parameter="large_token_price", probe={}, level_of=_break_even_price, ends=PRICES),
}
"""By the policy's name."""


def grid(
    dial: Dial, levels: Sequence[float], *, points: int, within: tuple[float, float] = (-math.inf, math.inf)
) -> list[float]:
    """Choose the values to try, in ascending order: quantiles of the levels, and the dial's ends.

    Args:
        dial: The setting.
        levels: Settings at which decisions of the policy with the dial's `probe` would change. A dial without a probe
            has itself as its level.
        points: Number of quantiles; equal ones count once.
        within: Limits of the values; neither is tried.
    """
    low, high = within
    shares = np.arange(1, points + 1) / (points + 1)
    if dial.probe is None:
        low, high = max(low, 0.0), min(high, 1.0)
        quantiles = low + shares * (high - low)
    else:
        inside = [level for level in levels if low < level < high]
        quantiles = np.quantile(inside, shares) if inside else np.empty(0)
    ends = [end for end in dial.ends if low < end < high]
    return sorted({*ends, *(float(value) for value in quantiles)})


def levels_of(dial: Dial, decisions: Iterable[Decision]) -> list[float]:
    """Find the settings at which decisions would change."""
    return [level for decision in decisions if (level := dial.level_of(decision)) is not None]
