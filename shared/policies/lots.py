"""Lots: numbers that look random and depend on the problem and the step alone, so that a replay draws the same ones."""

from __future__ import annotations

import hashlib

from shared.domain.decisions import Observation


def lot_of(observation: Observation, *purpose: str) -> float:
    """Draw a number in [0, 1) that depends on seed, question, step and purpose alone."""
    key = "/".join([str(observation.seed), observation.question_digest, str(observation.step), *purpose])
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
