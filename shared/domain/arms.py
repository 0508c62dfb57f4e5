"""Arms: the alternatives of a split, of which every problem gets one by chance."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from uuid import UUID


def draw_arm(weights: Sequence[float], problem_id: UUID) -> int:
    """Return the place of a problem's arm: each with a probability in proportion to its weight.

    The lot is a hash of the problem's id and of nothing else, so it can be drawn again from the stored row.
    """
    digest = hashlib.blake2b(problem_id.bytes, digest_size=8, person=b"arm").digest()
    lot = (int.from_bytes(digest) >> 11) / 2**53
    bounds = [*accumulate(weights)]
    # The product may round up to the last bound.
    return min(bisect_right(bounds, lot * bounds[-1]), len(bounds) - 1)
