"""Metrics of many curves at once: each row of an array is a curve of shares of large tokens and parts recovered.

The same definitions as in `evaluation.metrics`, which is the reference for them, computed for thousands of resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Envelopes:
    """The points of each curve in order of cost, with both baselines, and which of them recover more than all before.

    All arrays have the shape (curves, points + 2).
    """

    shares: Floats
    recovered: Floats
    is_kept: NDArray[np.bool_]
    """Whether a point is part of the envelope."""
    before: NDArray[np.intp]
    """Index of the last point of the envelope before this one; 0 for the first."""

    @classmethod
    def of(cls, shares: Floats, recovered: Floats) -> Self:
        """Order the points of curves.

        Args:
            shares: Shares of large tokens, of shape (curves, points).
            recovered: PGR, of the same shape. A curve with NaN has NaN for all its metrics.
        """
        ends = np.broadcast_to([0.0, 1.0], (len(shares), 2))
        shares, recovered = np.hstack([shares, ends]), np.hstack([recovered, ends])
        order = np.lexsort((-recovered, shares), axis=-1)
        shares, recovered = (np.take_along_axis(each, order, axis=1) for each in (shares, recovered))
        best = np.maximum.accumulate(recovered, axis=1)
        is_kept = np.hstack([np.ones((len(shares), 1), bool), recovered[:, 1:] > best[:, :-1]])
        last = np.maximum.accumulate(np.where(is_kept, np.arange(shares.shape[1]), 0), axis=1)
        before = np.hstack([np.zeros((len(shares), 1), np.intp), last[:, :-1]])
        return cls(shares, recovered, is_kept, before)

    def costs_to_recover(self, target: float) -> Floats:
        """Compute CPT of each curve: the minimum share that recovers a part of the gap; linear between points.

        Args:
            target: Part of the gap to recover, in [0, 1].
        """
        reaches = self.is_kept & (self.recovered >= target)
        first = reaches.argmax(axis=1)[:, None]
        before = np.take_along_axis(self.before, first, axis=1)
        high_share, high = (np.take_along_axis(each, first, axis=1)[:, 0] for each in (self.shares, self.recovered))
        low_share, low = (np.take_along_axis(each, before, axis=1)[:, 0] for each in (self.shares, self.recovered))
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(high > low, (target - low) / (high - low), 1.0)
        return self._defined(low_share + part * (high_share - low_share))

    def areas_recovered(self) -> Floats:
        """Compute APGR of each curve: the mean recovered part over all shares in [0, 1]."""
        counts = self.is_kept & (self.shares <= 1)
        low_shares, lows = (np.take_along_axis(each, self.before, axis=1) for each in (self.shares, self.recovered))
        trapezia = np.where(counts, (self.shares - low_shares) * (self.recovered + lows) / 2, 0.0)
        last = (self.shares.shape[1] - 1 - counts[:, ::-1].argmax(axis=1))[:, None]
        share, recovered = (np.take_along_axis(each, last, axis=1)[:, 0] for each in (self.shares, self.recovered))
        return self._defined(trapezia.sum(axis=1) + (1 - share) * recovered)

    def _defined(self, metrics: Floats) -> Floats:
        is_undefined = np.isnan(self.shares).any(axis=1) | np.isnan(self.recovered).any(axis=1)
        return np.where(is_undefined, np.nan, metrics)
