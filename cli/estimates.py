"""How commands write numbers with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SMALLEST_P_VALUE: Final = 0.001
"""Smaller ones are not written out."""


def percent(estimate: Mapping[str, float | None]) -> str:
    """Write a share with its interval, in percent."""
    return number({end: None if value is None else 100 * value for end, value in estimate.items()}, "{:.1f}", unit="%")


def number(estimate: Mapping[str, float | None], form: str = "{:.2f}", *, unit: str = "") -> str:
    """Write a number with its interval; `-` where it is undefined."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    if low is None or high is None:
        return form.format(value) + unit
    return f"{form.format(value)}{unit} ({form.format(low)} to {form.format(high)})"


def cost(estimate: Mapping[str, float | None]) -> str:
    """Write a cost with its interval, to four digits: prices of tokens are small."""
    return number(estimate, "{:.4g}")


def lacks_interval(estimate: Mapping[str, float | None]) -> bool:
    """Return whether an estimate has a value and no interval."""
    return estimate["value"] is not None and estimate["low"] is None


def seconds(value: float | None) -> str:
    """Write a time."""
    return "-" if value is None else f"{value:.2f} s"


def p_value(value: float) -> str:
    """Write a p-value."""
    return "<0.001" if value < SMALLEST_P_VALUE else f"{value:.3f}"
