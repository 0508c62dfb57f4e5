"""The ledger: what a problem cost, in tokens and calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Tokens and calls of one problem; each reported draft, scoring and piece of unfinished work is booked once.

    For each author, kept + discarded + wasted is exactly the number of tokens that engines reported, and kept is the
    sum over that author's steps. Estimated counts, of steps too, have separate columns and are part of no sum.

    Not reported, and so not booked: what a process that died had not published yet.
    """

    small_kept: int = 0
    """Decoded by the small model, in steps of the trajectory."""
    small_discarded: int = 0
    """Decoded by the small model, in drafts that a decision escalated."""
    small_wasted: int = 0
    """Decoded by the small model in no step and in no escalated draft: drafts ahead of an escalation, of the end or of
    a repeated request; drafts that arrived too late, or were written again; drafts whose scoring failed; what cancelled
    and failed calls had decoded; text past the end of a step; and output without words that ended the solution."""
    small_estimated: int = 0
    """Decoded by the small model, in steps or not, as far as its server did not count it: an estimate."""
    small_in: int = 0
    """Input tokens that the small model computed (cached ones are left out)."""
    large_out: int = 0
    """Decoded by the large model, in steps of the trajectory: the cost that the TRIM paper counts."""
    large_wasted: int = 0
    """Decoded by the large model in no step: steps ahead of the end or of a repeated request; steps that arrived too
    late, or were written again; what cancelled and failed calls had decoded; text past the end of a step; and output
    without words."""
    large_estimated: int = 0
    """As `small_estimated`, of the large model."""
    large_in: int = 0
    """Input tokens that the large model computed (cached ones are left out)."""
    prm_tokens: int = 0
    """Computed by the PRM."""
    prm_estimated: int = 0
    """Computed by the PRM, as far as its server did not count it: an estimate."""
    small_calls: int = 0
    large_calls: int = 0
    prm_calls: int = 0
