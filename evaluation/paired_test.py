"""A paired test of two policies on the same problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sign_flip_test(differences: Sequence[int]) -> float:
    """Compute the two-sided p-value of a paired difference by the exact sign-flip (randomisation) test.

    If two policies are equally good, each problem's difference is as likely as its negative. The p-value is the
    probability that random signs give a sum at least as far from zero. With one seed this is the exact test of McNemar.
    Source: Fisher, The Design of Experiments, 1935, section 21; for accuracy, McNemar, Psychometrika 12, 1947.

    Args:
        differences: For each problem, the number of seeds with which the first policy solved it minus that of the
            second: all seeds of a problem together, because they are not independent.
    """
    observed, reach = abs(sum(differences)), sum(map(abs, differences))
    # Entry i is the probability that the signs so far give the sum i - reach.
    probability = np.zeros(2 * reach + 1)
    probability[reach] = 1.0
    for difference in differences:
        if step := abs(difference):
            # No sum reaches an end before its last step, so nothing wraps around.
            probability = (np.roll(probability, step) + np.roll(probability, -step)) / 2
    return min(1.0, float(probability[np.abs(np.arange(-reach, reach + 1)) >= observed].sum()))
