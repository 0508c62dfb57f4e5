"""The ledger: what a problem cost, in tokens and calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Tokens and calls of one problem; each reported draft, scoring and piece of unfinished work is booked once.

    For each author, kept + discarded + wasted is exactly the number of tokens that engines reported, and kept is the
    sum over that author's steps. Estimated counts have separate columns and are part of no sum.

    Not reported, and so not booked: work of a process that died, and the first copy of work that another worker did
    again with the same ids.
    """

    small_kept: int = 0
    """Decoded by the small model, in steps of the trajectory."""
    small_discarded: int = 0
    """Decoded by the small model, in drafts that a decision escalated."""
    small_wasted: int = 0
    """Decoded by the small model in no step and in no rejected draft: drafted ahead of an escalation, written again
    after a time-out, cancelled, failed, or an end of the solution without words."""
    small_estimated: int = 0
    """Decoded by the small model in cancelled or failed work, as far as a server's stream showed."""
    small_in: int = 0
    """Input tokens that the small model computed (cached ones are left out)."""
    large_out: int = 0
    """Decoded by the large model, in steps of the trajectory: the cost that the TRIM paper counts."""
    large_wasted: int = 0
    """Decoded by the large model in no step: the problem ended first, the step was written again, the work was
    cancelled or failed, or the model wrote no words."""
    large_estimated: int = 0
    """As `small_estimated`, of the large model."""
    large_in: int = 0
    """Input tokens that the large model computed (cached ones are left out)."""
    prm_tokens: int = 0
    """Computed by the PRM."""
    prm_estimated: int = 0
    """Computed by the PRM in cancelled or failed work, as far as a server showed."""
    small_calls: int = 0
    large_calls: int = 0
    prm_calls: int = 0
