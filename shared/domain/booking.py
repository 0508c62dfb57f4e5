"""Booking what models cost: every draft once, as kept, discarded or wasted."""

from __future__ import annotations

from dataclasses import replace

from shared.domain.state import State
from shared.domain.values import Draft, Role, Scoring


def book(state: State, draft: Draft, *, kept: bool | None) -> State:
    """Book a draft: kept in the trajectory, replaced by a large step, or (`None`) wasted. Its input is paid anyway."""
    ledger = state.ledger
    computed, calls = draft.prompt_tokens - draft.cached_tokens, int(draft.opens_call)
    if draft.author is Role.SMALL:
        ledger = replace(ledger, small_in=ledger.small_in + computed, small_calls=ledger.small_calls + calls)
    else:
        ledger = replace(ledger, large_in=ledger.large_in + computed, large_calls=ledger.large_calls + calls)
    if draft.author is Role.LARGE and kept:
        ledger = replace(ledger, large_out=ledger.large_out + draft.tokens)
    elif draft.author is Role.LARGE:
        ledger = replace(ledger, large_wasted=ledger.large_wasted + draft.tokens)
    elif kept is None:
        ledger = replace(ledger, small_wasted=ledger.small_wasted + draft.tokens)
    elif kept:
        ledger = replace(ledger, small_kept=ledger.small_kept + draft.tokens)
    else:
        ledger = replace(ledger, small_discarded=ledger.small_discarded + draft.tokens)
    return replace(state, ledger=ledger, booked=state.booked | {draft.id})


def waste(state: State, drafts: tuple[Draft, ...]) -> State:
    """Book drafts that nobody uses, each once."""
    for draft in drafts:
        if draft.id not in state.booked:
            state = book(state, draft, kept=None)
    return state


def drop_pending(state: State) -> State:
    """Forget the drafts that were not decided, as wasted."""
    return waste(replace(state, pending=()), tuple(each.draft for each in state.pending))


def book_scoring(state: State, scoring: Scoring) -> State:
    """Book one PRM call."""
    ledger = replace(state.ledger, prm=state.ledger.prm + scoring.tokens, prm_calls=state.ledger.prm_calls + 1)
    return replace(state, ledger=ledger)
